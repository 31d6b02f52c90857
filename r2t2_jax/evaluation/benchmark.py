"""Evaluates strategies as part of a run: batch by batch, so that a killed process loses one batch at most.

Two plans share `evaluate_batch`. `r2t2 eval` saves a part per benchmark, whose batches hold the rows of all strategies
(`run_benchmarks`). `r2t2 demo` saves a part per model and strategy; a model's samples are encoded once for all of its
strategies (`run_strategies`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Port, Sample
from r2t2_jax.evaluation.batch import PreparedBatch, evaluate_batch
from r2t2_jax.evaluation.collect_bank import collect_bank, with_shipped_atlas
from r2t2_jax.evaluation.devices import ReplicaGroup
from r2t2_jax.evaluation.encode import BATCH, PreparedQuestions, encode_prepared, encode_questions, prepare_questions
from r2t2_jax.evaluation.evaluator import Evaluator, order_by_program
from r2t2_jax.evaluation.question_sets import QuestionSet, sample_names
from r2t2_jax.evaluation.records import BatchResult, reference_rows, result_rows
from r2t2_jax.methods import Method
from r2t2_jax.metrics import Metric
from r2t2_jax.runs.batch_files import with_rows
from r2t2_jax.runs.plan import Batch, Part
from r2t2_jax.runs.run import Rows, Run
from r2t2_jax.runs.workers import WorkerPool
from r2t2_jax.runtime.batching import AdaptiveBatchSize, prefetch, threads_at_a_time
from r2t2_jax.runtime.compilation_cache import CompileCounter

T = TypeVar("T")

REFERENCES = "references"  # the table of a model's references, answered correctly or not
ENCODE, ANSWER = "encode", "answer"  # stages that are timed
PLAN_BATCH = 32  # samples per batch of the plan: what a killed process loses at most
PREPARED = 1  # batches that the host prepares while the devices compute others


def part_name(model: str, name: str) -> str:
    """`pocket:narrow/ngd`."""
    return f"{model}/{name}"


def title_of(model: str, benchmark: str) -> str:
    """The title of a model's rows on a benchmark: `pocket:narrow on easy_vqa`; for a file its name."""
    return f"{model} on {Path(benchmark).name}"


def model_of(title: str, benchmark: str) -> str:
    """The model of a title that `title_of` returns for the benchmark."""
    return title.removesuffix(f" on {Path(benchmark).name}")


def benchmark_parts(benchmarks: Mapping[str, QuestionSet], references: int, batch: int) -> list[Part]:
    """The plan of `run_benchmarks`: the bank's records, then a part per benchmark."""
    parts = [Part(name, len(questions.samples), batch) for name, questions in benchmarks.items()]
    return [Part(REFERENCES, references, references, table=REFERENCES), *parts]


def strategy_parts(model: str, strategies: Sequence[str], references: int, tests: int) -> list[Part]:
    """The plan of `run_strategies` for one model: its candidates for references, then a part per strategy."""
    parts = [Part(part_name(model, name), tests, min(BATCH, tests)) for name in strategies]
    return [Part(part_name(model, REFERENCES), references, references, table=REFERENCES), *parts]


def seconds_by_strategy(times: Mapping[str, float], model: str, strategies: Sequence[str]) -> dict[str, float]:
    """Measured seconds per sample of each strategy, including the encoding of the sample."""
    encode = times[part_name(model, ENCODE)]
    return {name: encode + times[part_name(part_name(model, name), ANSWER)] for name in strategies}


@dataclass(frozen=True)
class ModelTask:
    """What `run_strategies` computes for one model.

    Args:
        port: the model.
        references: candidates; those answered correctly become the bank, the others also serve the loss atlas.
        tests: the test set.
        strategies: by name.
    """

    port: Port
    references: Sequence[Sample]
    tests: Sequence[Sample]
    strategies: Mapping[str, Method]


def run_strategies(
    run: Run, tasks: Sequence[ModelTask], metric: Metric, seed: int, at_path: Collection[str] = ()
) -> None:
    """Compute and save the missing batches of several models, several strategies at a time.

    The bank of a model is collected, and its questions are encoded, when the first of its parts begins; other threads
    meanwhile compute parts of other models.

    Args:
        run: its plan has the `strategy_parts` of each model.
        tasks: one for each model.
        metric: scores an answer.
        seed: of all random draws.
        at_path: strategies for which the answer at each point of the path is generated as well.

    Raises:
        R2T2Error: as `collect_bank` and `Evaluator.create`.
        RunInterrupted: a signal or the time limit stopped the run.
    """
    parts = order_of_parts(tasks)
    if not run.todo(parts):
        return
    prepared = {task.port.name: _Once(partial(_prepare, run, task, metric, seed)) for task in tasks}
    models = {part: task.port.name for task in tasks for part in _parts_of(task)}

    def rows(batch: Batch) -> list[dict[str, Any]]:
        model = models[batch.part]
        references, samples = prepared[model].get()
        if batch.part == part_name(model, REFERENCES):
            return references[batch.start : batch.stop]
        return _strategy_rows(run, samples, at_path, batch)

    count = sum(len(task.strategies) for task in tasks)
    title = f"{', '.join(task.port.name for task in tasks)}: {count} strategies"
    run.compute(rows, parts, threads_at_a_time(), title)


def _parts_of(task: ModelTask) -> list[str]:
    """The references of a model, then its strategies, the first strategy of each compiled program in front."""
    return [part_name(task.port.name, name) for name in (REFERENCES, *order_by_program(task.strategies))]


def order_of_parts(tasks: Sequence[ModelTask]) -> list[str]:
    """The parts of all models in the order in which threads begin them.

    Models of one architecture share compiled programs. The first models of all architectures are therefore prepared at
    the same time, and others when their programs are compiled. The last parts of these are the cheap ones, so that
    all threads end at about the same time.
    """
    groups: dict[Any, list[ModelTask]] = {}
    for task in tasks:
        groups.setdefault(task.port.model, []).append(task)
    first = [_parts_of(group[0]) for group in groups.values()]
    parts = [references for references, *_ in first]
    parts += [part for _, *strategies in reversed(first) for part in strategies]
    for references, *strategies in (_parts_of(task) for group in groups.values() for task in group[1:]):
        parts += [references, *reversed(strategies)]
    return parts


def _prepare(run: Run, task: ModelTask, metric: Metric, seed: int) -> tuple[list[dict[str, Any]], PreparedBatch]:
    """The rows of a model's references, and its test set with the neighbors of every sample."""
    port = task.port
    bank = with_shipped_atlas(collect_bank(port, task.references, metric, keep_wrong=True), port)
    run.check()
    questions = encode_questions(port, task.tests)
    run.time(part_name(port.name, ENCODE), 1, questions.seconds_per_sample)
    samples = Evaluator.create(port, bank, task.strategies, metric, seed).prepare_batch(questions)
    return reference_rows(port.name, bank.records, np.asarray(bank.routing)), samples


class _Once(Generic[T]):
    """A value that the first caller computes; the others wait for it, and all raise its error."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute, self._begun, self._result = compute, threading.Lock(), Future[T]()

    def get(self) -> T:
        if self._begun.acquire(blocking=False):
            try:
                self._result.set_result(self._compute())
            except BaseException as error:
                self._result.set_exception(error)
        return self._result.result()


def _strategy_rows(run: Run, samples: PreparedBatch, at_path: Collection[str], batch: Batch) -> list[dict[str, Any]]:
    """The rows of one batch of one strategy; `samples` is the whole test set."""
    model = samples.port.name
    (result,) = evaluate_batch(
        samples,
        [batch.part.removeprefix(part_name(model, ""))],
        start=batch.start,
        stop=batch.stop,
        chunk_size=min(BATCH, len(samples)),
        at_path=at_path,
    )
    run.time(part_name(batch.part, ANSWER), len(batch), result.seconds_per_sample * len(batch))
    return result_rows(result, model, samples.neighbors.records)


@dataclass(frozen=True)
class DeviceReplica:
    """An evaluator whose model is on a group of devices."""

    evaluator: Evaluator
    group: ReplicaGroup


class BenchmarkEvaluator:
    """Computes the rows of a benchmark's batches. Rows depend on the batch only, not on device, process or order.

    Args:
        replicas: copies of the model that take the batches in turn.
        title: of the rows, such as `pocket:narrow on easy_vqa`.
        benchmark: its name.
        samples: all questions of the benchmark, in the order of the plan.
        batch_size: samples per batch; a smaller batch is padded, so that one compiled program serves every batch.
        chunk_size: samples that a device takes at a time.
        on_timing: called with (stage, samples, seconds).
        at_path: strategies for which the answer at each point of the path is generated as well.
    """

    def __init__(
        self,
        replicas: Sequence[DeviceReplica],
        title: str,
        benchmark: str,
        samples: Sequence[Sample],
        batch_size: int,
        chunk_size: AdaptiveBatchSize,
        on_timing: Callable[[str, int, float], None],
        at_path: Collection[str] = (),
    ) -> None:
        self._replicas, self._title, self._benchmark, self._at_path = replicas, title, benchmark, at_path
        self._samples, self._batch_size = samples, batch_size
        self._chunk_size, self._on_timing = chunk_size, on_timing
        self._compiled: dict[Any, threading.Lock | None] = {}
        self._guard = threading.Lock()

    def prepare(self, batch: Batch) -> PreparedQuestions | None:
        """Compute the model's inputs on the host while the devices are busy; `None` if that needs a sharded model."""
        replica = self._replica(batch)
        return None if replica.group.mesh is not None else self._prepare(replica, batch)

    def _prepare(self, replica: DeviceReplica, batch: Batch) -> PreparedQuestions:
        samples = self._samples[batch.start : batch.stop]
        padding = [samples[-1]] * (self._batch_size - len(samples))
        return prepare_questions(replica.evaluator.port, [*samples, *padding])

    def _replica(self, batch: Batch) -> DeviceReplica:
        return self._replicas[batch.number % len(self._replicas)]

    def rows(self, batch: Batch, prepared: PreparedQuestions | None) -> list[dict[str, Any]]:
        """One row per strategy and sample, in this order.

        Raises:
            R2T2Error: a feature is NaN, a strategy needs something that model or bank do not offer, or a single sample
                does not fit in device memory.
        """
        replica = self._replica(batch)
        with replica.group.exclusive():
            prepared = self._prepare(replica, batch) if prepared is None else prepared
            return self._chunk_size.fit(partial(self._rows, replica, batch, prepared))

    def _rows(
        self, replica: DeviceReplica, batch: Batch, prepared: PreparedQuestions, chunk_size: int
    ) -> list[dict[str, Any]]:
        evaluator = replica.evaluator
        shapes = tuple((leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(prepared.inputs))
        with self._compile_once((replica.group.devices, shapes, chunk_size)):
            start, progress = time.perf_counter(), tqdm(disable=True)
            questions = encode_prepared(evaluator.port, prepared, chunk_size, progress, vmap_size=evaluator.vmap_size)
            self._on_timing(part_name(self._title, ENCODE), len(batch), time.perf_counter() - start)
            indices = np.minimum(np.arange(batch.start, batch.start + self._batch_size), batch.stop - 1)
            samples = evaluator.prepare_batch(questions, indices)
            results = evaluate_batch(samples, stop=len(batch), chunk_size=chunk_size, at_path=self._at_path)
        return [row for result in results for row in self._result_rows(result)]

    def _result_rows(self, result: BatchResult) -> Iterator[dict[str, Any]]:
        """The rows of every run, with what `r2t2 score` needs to score them again."""
        n = len(result.samples)
        stage = part_name(part_name(self._title, result.name), ANSWER)
        self._on_timing(stage, n, result.seconds_per_sample * n)
        index = self._replicas[0].evaluator.index
        rows = result_rows(result, self._title, () if index is None else index.bank.records)
        for row, sample in zip(rows, result.samples, strict=True):
            yield row | {"benchmark": self._benchmark, "options": list(sample.options), "style": sample.style}

    @contextmanager
    def _compile_once(self, shapes: Any) -> Iterator[None]:
        """The first batch of its shapes compiles; other batches of these shapes wait instead of compiling as well."""
        with self._guard:
            lock = self._compiled.setdefault(shapes, threading.Lock())
        if lock is None:
            yield
            return
        with lock:
            yield
        self._compiled[shapes] = None


def run_benchmarks(
    run: Run,
    evaluators: Mapping[str, BenchmarkEvaluator],
    threads: int,
    log: Callable[[str], None],
    order: Sequence[str] = (),
) -> None:
    """Compute and save the missing batches in the order of the plan.

    While devices compute some batches, the host prepares the next one and writes the rows of an earlier one.

    Args:
        run: its plan has a part for each benchmark.
        evaluators: by benchmark.
        threads: batches that are computed at a time.
        log: called with a message for each compilation.
        order: all strategies of a run that extends another; the evaluators compute those that it adds.

    Raises:
        RunInterrupted: a signal or the time limit stopped the run.
        R2T2Error: as `BenchmarkEvaluator.rows`.
    """

    def prepare(batch: Batch) -> tuple[Batch, PreparedQuestions | None]:
        return batch, evaluators[batch.part].prepare(batch)

    def compute(prepared: tuple[Batch, PreparedQuestions | None]) -> list[dict[str, Any]]:
        batch, inputs = prepared
        return evaluators[batch.part].rows(batch, inputs)

    accuracy, names = _RunningAccuracy(run), list(evaluators)
    computed = prefetch(compute, prefetch(prepare, run.todo(names), PREPARED), threads)
    with CompileCounter() as compiled:
        programs = 0
        for batch, rows in zip(run.missing(names), computed, strict=True):
            run.append(batch, with_earlier_rows(run, batch, rows, order))
            accuracy.add(rows)
            run.note = str(accuracy)
            if compiled.programs + compiled.cached > programs:
                programs = compiled.programs + compiled.cached
                log(f"{batch.part}, questions {batch.start + 1:,} to {batch.stop:,}: {compiled}")


def record_references(run: Run, model: str, bank: ReferenceBank) -> None:
    """Save what reports show of the neighbors: the bank's records without their routing, which the bank holds."""
    columns = ("id", "question", "answer", "category", "score")
    for batch in run.todo([REFERENCES]):
        run.append(batch, [{"model": model, **{name: row.get(name) for name in columns}} for row in bank.records])


def earlier_strategies(run: Run) -> set[str]:
    """The strategies of the complete run that this run extends; empty if it extends none."""
    tables = (run.earlier_rows(batch) for batch in run.plan.batches if batch.part != REFERENCES)
    first = next(tables, None)
    return set() if first is None else set(first["strategy"].unique().to_pylist())


def with_earlier_rows(run: Run, batch: Batch, rows: Rows, order: Sequence[str]) -> Rows | pa.Table:
    """The rows of a batch together with those of the complete run that this run extends, by strategy in `order`."""
    earlier = run.earlier_rows(batch)
    if earlier is None:
        return rows
    table, places = with_rows(earlier, rows), {name: place for place, name in enumerate(order)}
    return table.take(np.argsort([places[name] for name in table["strategy"].to_pylist()], kind="stable"))


def run_on_workers(
    run: Run, pool: WorkerPool, benchmarks: Mapping[str, Sequence[Sample]], title: str, order: Sequence[str] = ()
) -> None:
    """Compute the missing batches on workers and save them as they arrive.

    Args:
        run: its plan has a part for each benchmark.
        pool: workers whose program returns the rows of a batch's samples, and timings (stage, samples, seconds).
        benchmarks: the samples of each benchmark, in the order of the plan.
        title: of the progress bar.
        order: as for `run_benchmarks`.

    Raises:
        RunInterrupted: a signal was received or the time limit is reached.
        R2T2Error: as `WorkerPool.map`.
    """
    accuracy = _RunningAccuracy(run)

    def samples(batch: Batch) -> Sequence[Sample]:
        return benchmarks[batch.part][batch.start : batch.stop]

    for batch, rows in pool.results(run, list(benchmarks), samples, lambda batch: sample_names(samples(batch)), title):
        run.append(batch, with_earlier_rows(run, batch, rows, order))
        accuracy.add(rows)
        run.note = str(accuracy)


class _RunningAccuracy:
    """Accuracy of each strategy so far, including the batches of earlier processes."""

    def __init__(self, run: Run) -> None:
        self._samples, self._right = Counter[str](), Counter[str]()
        for batch, table in run.tables():
            if batch.part != REFERENCES:
                self.add(table.select(["strategy", "right"]).to_pylist())

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._samples[row["strategy"]] += 1
            self._right[row["strategy"]] += row["right"]

    def __str__(self) -> str:
        return ", ".join(f"{name} {100 * self._right[name] / n:.1f} %" for name, n in self._samples.items())
