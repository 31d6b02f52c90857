"""Benchmarks as parts of a run: batches that overlap, rows that survive, and the numbers that follow from them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from jaxtyping import Bool
from tqdm import tqdm

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Port, Sample
from r2t2_jax.evaluation.collect_bank import collect_bank, with_shipped_atlas
from r2t2_jax.evaluation.devices import ReplicaGroup
from r2t2_jax.evaluation.encode import BATCH, Prepared, encode_prepared, encode_questions, prepare_questions
from r2t2_jax.evaluation.evaluator import Evaluation, Setup, in_order_of_programs, prepare
from r2t2_jax.evaluation.question_sets import QuestionSet
from r2t2_jax.evaluation.records import SampleResult, rows
from r2t2_jax.evaluation.statistics import DIGITS, summarize
from r2t2_jax.methods import Method
from r2t2_jax.metrics import Metric, SetScore
from r2t2_jax.runs.plan import Batch, Part
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.batching import AdaptiveBatchSize, Rows, run_batch, threads_at_a_time
from r2t2_jax.runtime.compilation_cache import CompileCounter
from r2t2_jax.runtime.threads import prefetch

REFERENCES = "references"  # the table of a model's references, answered correctly or not
ENCODE, ANSWER = "encode", "answer"  # what is timed


def parts_recording(model: str, strategies: Sequence[str], references: int, tests: int) -> list[Part]:
    """A model's parts of the plan, for so many candidates for references and so many test samples."""
    asked = [Part(part_name(model, name), tests, min(BATCH, tests)) for name in strategies]
    return [Part(part_name(model, REFERENCES), references, references, table=REFERENCES), *asked]


def part_name(model: str, name: str) -> str:
    """`pocket:narrow/ngd`."""
    return f"{model}/{name}"


def record(
    run: Run,
    port: Port,
    references: Sequence[Sample],
    tests: Sequence[Sample],
    strategies: Mapping[str, Method],
    metric: Metric,
    seed: int,
    answered_along: Collection[str] = (),
) -> None:
    """Compute what is missing of a model's parts.

    Args:
        run: whose plan has `parts` of this model.
        port: the model.
        references: candidates; those answered correctly become the bank, the others serve the loss atlas.
        tests: the test set.
        strategies: by name.
        metric: scores an answer.
        seed: of everything drawn.
        answered_along: strategies whose answer at each point of the path is wanted too.

    Raises:
        R2T2Error: as `collect_bank` and `prepare`.
        Stopped: the run is to end.
    """
    names = [part_name(port.name, name) for name in (REFERENCES, *strategies)]
    if not run.todo(names):
        return
    bank = with_shipped_atlas(collect_bank(port, references, metric, keep_wrong=True), port)
    run.check()
    questions = encode_questions(port, tests)
    run.time(part_name(port.name, ENCODE), 1, questions.seconds_per_sample)
    evaluation = prepare(port, bank, questions, strategies, metric, seed)
    for batch in run.todo(names[:1]):
        run.append(batch, reference_rows(port.name, bank.records, np.asarray(bank.routing)))
    run.compute(
        partial(_answer, run, evaluation, answered_along),
        [part_name(port.name, name) for name in in_order_of_programs(strategies)],
        threads_at_a_time(),
        title=f"{port.name}: {len(strategies)} strategies",
    )


def reference_rows(model: str, records: Sequence[Mapping[str, Any]], routing: np.ndarray) -> list[dict[str, Any]]:
    """One row for each reference, its routing [L, E] flat."""
    return [
        {"model": model, **record, "experts": list(record["experts"]), "routing": routing[i].ravel()}
        for i, record in enumerate(records)
    ]


def _answer(run: Run, evaluation: Evaluation, along: Collection[str], batch: Batch) -> list[dict[str, Any]]:
    """The rows of one batch of one strategy."""
    name = batch.part.removeprefix(part_name(evaluation.port.name, ""))
    size = min(BATCH, len(evaluation.questions.samples))
    start = time.perf_counter()
    found = run_batch(partial(evaluation.answer, name), batch.start, batch.stop, size)
    run.time(part_name(batch.part, ANSWER), len(batch), time.perf_counter() - start)
    if name in along:

        def step(rows: Rows) -> dict[str, Any]:
            return evaluation.answer_along(name, found["path"][rows - batch.start], rows)

        found |= run_batch(step, batch.start, batch.stop, size)
    questions = evaluation.questions
    return rows(
        evaluation.outcome(name, found, batch.start),
        evaluation.port.name,
        questions.samples[batch.start : batch.stop],
        np.asarray(questions.queries.routing)[batch.start : batch.stop],
        evaluation.lookup.bank.records,
    )


def seconds_per_sample(times: Mapping[str, float], model: str, strategies: Sequence[str]) -> dict[str, float]:
    """Measured seconds a case of each strategy, the encoding of the case included."""
    encode = times[part_name(model, ENCODE)]
    return {name: encode + times[part_name(part_name(model, name), ANSWER)] for name in strategies}


Clock = Callable[[str, int, float], None]


@dataclass(frozen=True)
class DeviceReplica:
    """Model, bank and strategies, on a group of devices."""

    setup: Setup
    group: ReplicaGroup


class BatchEvaluator:
    """The rows of a benchmark's batches. They depend on nothing but the batch, wherever and whenever it is computed.

    Args:
        seats: where batches are computed in turn: model, bank and strategies on a group of devices.
        title: under which rows are reported, such as `pocket:narrow on easy_vqa`.
        benchmark: its name.
        samples: all of its questions, in the order of the plan.
        size: samples a batch; a smaller one is filled up, so that one compiled program serves all of one length.
        processes: how many share the plan's batches.
        together: how many of them the device takes at a time.
        clock: is told what took how long.
    """

    def __init__(
        self,
        seats: Sequence[DeviceReplica],
        title: str,
        benchmark: str,
        samples: Sequence[Sample],
        size: int,
        processes: int,
        together: AdaptiveBatchSize,
        clock: Clock,
    ) -> None:
        self._seats, self._title, self._benchmark = seats, title, benchmark
        self._samples, self._size, self._processes = samples, size, processes
        self._together, self._clock = together, clock
        self._compiled: dict[Any, threading.Lock | None] = {}
        self._guard = threading.Lock()

    def prepare(self, batch: Batch) -> Prepared | None:
        """What the host does while the devices are busy; nothing where it would have to wait for them."""
        seat = self._seat(batch)
        return None if seat.group.mesh is not None else self._prepare(seat, batch)

    def _prepare(self, seat: DeviceReplica, batch: Batch) -> Prepared:
        samples = self._samples[batch.start : batch.stop]
        return prepare_questions(seat.setup.port, [*samples, *[samples[-1]] * (self._size - len(samples))])

    def _seat(self, batch: Batch) -> DeviceReplica:
        return self._seats[batch.number // self._processes % len(self._seats)]

    def rows(self, batch: Batch, prepared: Prepared | None) -> list[dict[str, Any]]:
        """One row for each strategy and sample, in this order.

        Raises:
            R2T2Error: a feature is NaN, a strategy asks for what bank or model do not offer, or memory does not do for
                a single sample.
        """
        seat = self._seat(batch)
        with seat.group.taken():
            prepared = self._prepare(seat, batch) if prepared is None else prepared
            return self._together.fit(partial(self._rows, seat, batch, prepared))

    def _rows(self, seat: DeviceReplica, batch: Batch, prepared: Prepared, together: int) -> list[dict[str, Any]]:
        shapes = tuple((leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(prepared.inputs))
        with self._compiling_once((seat.group.devices, shapes, together)):
            start = time.perf_counter()
            bar = tqdm(disable=True)
            questions = encode_prepared(seat.setup.port, prepared, together, bar, vmap_size=seat.setup.vmap_size)
            self._clock(part_name(self._title, ENCODE), len(batch), time.perf_counter() - start)
            places = np.minimum(np.arange(batch.start, batch.start + self._size), batch.stop - 1)
            evaluation = seat.setup.asked(questions, places)
            routing = np.asarray(questions.queries.routing)
            return [
                row
                for name in evaluation.strategies
                for row in self._told(self._answer(evaluation, name, len(batch), together), batch, routing)
            ]

    def _answer(self, evaluation: Evaluation, name: str, n: int, together: int) -> SampleResult:
        start = time.perf_counter()
        found = [
            run_batch(partial(evaluation.answer, name), first, min(first + together, n), together)
            for first in range(0, n, together)
        ]
        outcome = evaluation.outcome(name, jax.tree.map(lambda *leaves: np.concatenate(leaves), *found))
        self._clock(part_name(part_name(self._title, name), ANSWER), n, time.perf_counter() - start)
        return outcome

    def _told(self, outcome: SampleResult, batch: Batch, routing: np.ndarray) -> Iterator[dict[str, Any]]:
        """The rows of other runs, and what scoring them anew takes."""
        samples = self._samples[batch.start : batch.stop]
        found = rows(outcome, self._title, samples, routing[: len(batch)], self._seats[0].setup.library.bank.records)
        for row, sample in zip(found, samples, strict=True):
            yield row | {"benchmark": self._benchmark, "options": list(sample.options), "style": sample.style}

    @contextmanager
    def _compiling_once(self, shapes: Any) -> Iterator[None]:
        """The first batch of its shapes compiles; others of the same wait for it instead of doing it again."""
        with self._guard:
            lock = self._compiled.setdefault(shapes, threading.Lock())
        if lock is None:
            yield
            return
        with lock:
            yield
        self._compiled[shapes] = None


PREPARED = 1  # batches that the host prepares while others are computed
READ = ("strategy", "right", "score", "evaluations")  # columns on which a summary rests
SAVED = 32  # samples a batch of the plan: what a killed process loses at most


def title_of(model: str, benchmark: str) -> str:
    """Under what name a model's rows on a benchmark are reported: `pocket:narrow on easy_vqa`; of a file its name."""
    return f"{model} on {Path(benchmark).name}"


def parts(benchmarks: Mapping[str, QuestionSet], references: int, batch: int) -> list[Part]:
    """The plan: the bank's records, then every benchmark, all strategies of a batch together."""
    asked = [Part(name, len(one.samples), batch) for name, one in benchmarks.items()]
    return [Part(REFERENCES, references, references, table=REFERENCES), *asked]


def batch_size(benchmarks: Mapping[str, QuestionSet], wanted: int) -> int:
    """The wanted number of samples, or fewer where no benchmark has as many."""
    return min(wanted, max(len(one.samples) for one in benchmarks.values()))


def record_references(run: Run, model: str, bank: ReferenceBank) -> None:
    """What reports tell of the neighbours: the bank's records, less their routing, which the bank itself holds."""
    for batch in run.todo([REFERENCES]):
        told = ("id", "question", "answer", "category", "score")
        run.append(batch, [{"model": model, **{name: one.get(name) for name in told}} for one in bank.records])


def run_benchmarks(run: Run, asking: Mapping[str, BatchEvaluator], threads: int, say: Callable[[str], None]) -> None:
    """Compute what is missing, and save it batch by batch in the order of the plan.

    Three things happen at a time: the host prepares a batch, devices compute others, and the rows of an earlier one are
    written.

    Args:
        run: whose plan has a part for each benchmark.
        asking: by benchmark.
        threads: batches that are computed at a time.
        say: is told of whatever was compiled.

    Raises:
        Stopped: the run is to end.
        R2T2Error: as `BatchEvaluator.rows`.
    """

    def prepare(batch: Batch) -> tuple[Batch, Any]:
        return batch, asking[batch.part].prepare(batch)

    def compute(prepared: tuple[Batch, Any]) -> list[dict[str, Any]]:
        batch, inputs = prepared
        return asking[batch.part].rows(batch, inputs)

    score = _RunningAccuracy(run)
    found = prefetch(compute, prefetch(prepare, run.todo(list(asking)), PREPARED), threads)
    with CompileCounter() as compiled:
        known = 0
        for batch, rows in zip(run.missing(list(asking)), found, strict=True):
            run.append(batch, rows)
            score.add(rows)
            run.note = str(score)
            if compiled.programs + compiled.found > known:
                known = compiled.programs + compiled.found
                say(f"{batch.part}, questions {batch.start + 1:,} to {batch.stop:,}: so far {compiled}")


class _RunningAccuracy:
    """Accuracy of each strategy so far, earlier processes included."""

    def __init__(self, run: Run) -> None:
        self._asked, self._right = Counter[str](), Counter[str]()
        for batch, table in run.tables():
            if batch.part != REFERENCES:
                self.add(table.select(["strategy", "right"]).to_pylist())

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._asked[row["strategy"]] += 1
            self._right[row["strategy"]] += row["right"]

    def __str__(self) -> str:
        return ", ".join(f"{name} {100 * self._right[name] / n:.1f} %" for name, n in self._asked.items())


def summarize_benchmark(table: pa.Table, samples: Sequence[Sample], set_score: SetScore) -> dict[str, Any]:
    """The numbers of a benchmark, from its rows and what the questions are.

    Args:
        table: rows of all batches, strategies side by side within each; the columns `READ` at least.
        samples: in the order of the plan.
        set_score: makes the benchmark's own numbers of the samples' scores.

    Returns:
        As `summary.summarize`, and each strategy's `score`: the benchmark's own numbers, in percent or its own unit.
    """
    names = np.array(table["strategy"].to_pylist())
    right: dict[str, Bool[np.ndarray, "B"]] = {}
    evaluations, scores = {}, {}
    for name in dict.fromkeys(names.tolist()):
        mine = names == name
        right[name] = table["right"].to_numpy(zero_copy_only=False)[mine]
        evaluations[name] = table["evaluations"].to_numpy()[mine][0].item()
        official = set_score(table["score"].to_numpy()[mine].tolist(), samples)
        scores[name] = {what: round(number, DIGITS) for what, number in official.items()}
    summary = summarize(right, evaluations, [sample.category for sample in samples])
    for name, entry in summary["strategies"].items():
        entry["score"] = scores[name]
    return summary


def rows_by_benchmark(run: Run, benchmark: str) -> pa.Table:
    """What a summary needs of a benchmark's rows, read batch by batch, since paths outweigh everything else."""
    found = [table.select(list(READ)) for batch, table in run.tables() if batch.part == benchmark]
    return pa.concat_tables(found)
