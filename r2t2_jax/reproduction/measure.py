"""Computes the missing measurements of a reproduction as parts of a run.

References are encoded once per model and questions once per target, for all tables. Rows that differ only in numbers
share a compiled program.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.records import StoredSamples
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import PreparedBatch, evaluate_batch
from r2t2_jax.evaluation.benchmark import ANSWER, ENCODE, part_name
from r2t2_jax.evaluation.encode import encode_prepared, prepare_questions
from r2t2_jax.evaluation.feature_cache import BankArrays
from r2t2_jax.evaluation.question_sets import sample_names
from r2t2_jax.evaluation.records import reference_rows, result_rows
from r2t2_jax.evaluation.setup import ModelSource, open_bank
from r2t2_jax.metrics import Metric
from r2t2_jax.reproduction.conditions import ConditionEvaluator, create_evaluator
from r2t2_jax.reproduction.plan import EvalTarget, QuestionBlock, TargetPlan
from r2t2_jax.reproduction.spec import Condition
from r2t2_jax.runs.cluster import Workers
from r2t2_jax.runs.plan import Batch
from r2t2_jax.runs.run import Run
from r2t2_jax.runs.workers import Timing, WorkerProgram, open_pool
from r2t2_jax.runtime.batching import prefetch, threads_at_a_time

SWEEP_COLUMNS = ("model", "strategy", "id", "category", "prediction", "score", "right", "used_fallback", "evaluations")
NOT_RUN = "not_run"  # column with the reason why a model cannot run a row
MAX_ENCODED_BLOCKS = 2  # the current block and the next


def measure(
    run: Run,
    targets: Sequence[EvalTarget],
    plans: Sequence[TargetPlan],
    bank: Path | None,
    seed: int,
    block_size: int,
    workers: Workers | None = None,
    sources: Mapping[str, ModelSource] | None = None,
    allow_leakage: bool = False,
) -> None:
    """Compute all missing measurements.

    Args:
        run: its plan has the parts of all targets.
        targets, plans: the targets and their plans, in the same order.
        bank: directory of the references; without it the references registered with the model are collected.
        seed: seed of all random choices.
        block_size: questions per block.
        workers: Ray workers that measure; `None` for this process.
        sources: how a worker opens each model, by the name of its port.
        allow_leakage: accept questions that are also references.

    Raises:
        R2T2Error: as `open_bank` and `create_evaluator`.
        RunInterrupted: the run was interrupted.
    """
    groups: dict[str, list[tuple[EvalTarget, TargetPlan]]] = {}
    for target, plan in zip(targets, plans, strict=True):
        if run.todo([part.name for part in plan.parts(block_size)]):
            groups.setdefault(target.port.name, []).append((target, plan))
    for name, group in groups.items():  # the bank of one model at a time
        target = group[0][0]
        samples = [sample for other, _ in group for sample in other.samples]
        metrics = {other.data: other.metric for other, _ in group}
        references = open_bank(target.port, bank, metrics, samples, keep_wrong=True, allow_leakage=allow_leakage)
        run.check()
        for target, plan in group:
            for batch in run.todo([plan.references]):
                run.append(batch, reference_rows(target.name, references.records, np.asarray(references.routing)))
        if workers is not None and sources is not None:
            _measure_on_workers(run, group, references, seed, block_size, workers, sources[name])
            continue
        for target, plan in group:
            evaluator = BlockEvaluator(target, plan, share_features(references), seed, block_size, run.time)
            parts = [part.name for part in plan.parts(block_size)]
            results = prefetch(evaluator.rows, run.todo(parts), threads_at_a_time())
            for batch, rows in zip(run.missing(parts), results, strict=True):
                run.append(batch, rows)


def _measure_on_workers(
    run: Run,
    group: Sequence[tuple[EvalTarget, TargetPlan]],
    references: ReferenceBank,
    seed: int,
    block_size: int,
    workers: Workers,
    source: ModelSource,
) -> None:
    """Compute the missing measurements of the targets of one model on workers."""
    blocks = {block.part: (target, block) for target, plan in group for block in plan.blocks(block_size)}
    arguments = {
        "source": source,
        "bank": BankArrays.of(references, workers.per_node),
        "targets": [
            ((target.name, target.model, target.data, target.metric), target.port.max_new_tokens, plan)
            for target, plan in group
        ],
        "seed": seed,
        "block_size": block_size,
    }

    def samples(batch: Batch) -> Sequence[Sample]:
        target, block = blocks[batch.part]
        return target.samples[block.start : block.stop]

    def names(batch: Batch) -> str:
        _, block = blocks[batch.part]
        return f"measurement {block.labels[batch.start]} of {sample_names(samples(batch))}"

    with open_pool(workers, WorkerProgram("r2t2_jax.reproduction.measure:open_worker", arguments)) as pool:
        pool.compute(run, list(blocks), samples, names, f"{group[0][0].port.name}: reproduce")


def open_worker(
    source: ModelSource,
    bank: BankArrays,
    targets: Sequence[tuple[tuple[str, str, str, Metric], int, TargetPlan]],
    seed: int,
    block_size: int,
) -> Callable[[Batch, Sequence[Sample]], tuple[list[dict[str, Any]], list[Timing]]]:
    """The work of a Ray worker on one model's targets; raises as `ModelSource.open`.

    Each target has its name, model, data and metric, the longest answer in tokens, and its plan.
    """
    (port, *_), _ = source.open()
    references, timings = share_features(bank.open(port)), list[Timing]()

    def record(stage: str, samples: int, seconds: float) -> None:
        timings.append((stage, samples, seconds))

    place = {block.part: i for i, (_, _, plan) in enumerate(targets) for block in plan.blocks(block_size)}

    @lru_cache(maxsize=1)  # targets come one after the other
    def evaluator(number: int) -> BlockEvaluator:
        (name, model, data, metric), longest, plan = targets[number]
        target = EvalTarget(name, model, replace(port, max_new_tokens=longest), data, (), metric)
        return BlockEvaluator(target, plan, references, seed, block_size, record)

    def work(batch: Batch, samples: Sequence[Sample]) -> tuple[list[dict[str, Any]], list[Timing]]:
        timings.clear()
        return evaluator(place[batch.part]).rows(batch, samples), list(timings)

    return work


def share_features(bank: ReferenceBank) -> ReferenceBank:
    """The bank with its features behind a reader, so that all of its subsets share one copy."""
    if bank.features is None:
        return bank
    return replace(bank, features=None, answers=None, reader=StoredSamples(bank.features, bank.answers))


class BlockEvaluator:
    """Computes the stored rows of a target's blocks; they depend only on the block and the measurement."""

    def __init__(
        self,
        target: EvalTarget,
        plan: TargetPlan,
        bank: ReferenceBank,
        seed: int,
        block_size: int,
        on_timing: Callable[[str, int, float], None],
    ) -> None:
        self._target, self._plan, self._on_timing = target, plan, on_timing
        self._size = min(block_size, plan.max_samples)
        self._blocks: Mapping[str, QuestionBlock] = {block.part: block for block in plan.blocks(block_size)}
        methods: dict[Condition, dict[str, Any]] = {}
        for label, measurement in plan.measurements.items():
            methods.setdefault(measurement.condition, {})[label] = measurement.method
        self._evaluators: Mapping[Condition, ConditionEvaluator] = {
            condition: create_evaluator(target.port, bank, labeled, condition, target.metric, seed)
            for condition, labeled in methods.items()
        }
        self._encoding = threading.Lock()
        self._prepared: dict[int, Mapping[Condition, PreparedBatch]] = {}

    def rows(self, batch: Batch, samples: Sequence[Sample] | None = None) -> list[dict[str, Any]]:
        """The stored rows of one measurement of one block, whose samples are those of the target by default."""
        block = self._blocks[batch.part]
        measurement = self._plan.measurements[block.labels[batch.start]]
        label = measurement.label
        prepared = self._prepare(block, samples)[measurement.condition]
        stop = min(block.stop, measurement.samples) - block.start
        at_path = (label,) if measurement.answer_steps else ()
        try:
            (result,) = evaluate_batch(prepared, [label], stop=stop, chunk_size=self._size, at_path=at_path)
        except R2T2Error as error:
            if not measurement.optional:
                raise
            return [{"model": self._target.name, "strategy": label, NOT_RUN: str(error)}]
        self._on_timing(part_name(part_name(self._target.name, label), ANSWER), stop, result.seconds_per_sample * stop)
        rows = result_rows(result, self._target.name, prepared.neighbors.records)
        return rows if measurement.detailed else [{key: row[key] for key in SWEEP_COLUMNS} for row in rows]

    def _prepare(self, block: QuestionBlock, samples: Sequence[Sample] | None) -> Mapping[Condition, PreparedBatch]:
        """The questions of a block under every condition, encoded once; a shorter block is padded."""
        with self._encoding:
            if block.start not in self._prepared:
                samples = samples or self._target.samples[block.start : block.stop]
                padded = [*samples, *[samples[-1]] * (self._size - len(samples))]
                port = self._target.port
                questions = encode_prepared(
                    port, prepare_questions(port, padded), self._size, tqdm(disable=True), threads_at_a_time()
                )
                self._on_timing(part_name(self._target.name, ENCODE), 1, questions.seconds_per_sample)
                indices = np.minimum(np.arange(block.start, block.start + self._size), block.stop - 1)
                self._prepared[block.start] = {
                    condition: evaluator.prepare_batch(questions, indices)
                    for condition, evaluator in self._evaluators.items()
                }
                for start in sorted(self._prepared)[:-MAX_ENCODED_BLOCKS]:
                    del self._prepared[start]
            return self._prepared[block.start]
