"""Compute what is missing of a reproduction, on the engine for long work.

References are encoded once a model and questions once a subject, whatever the number of tables. Rows which differ in
numbers alone share a compiled program.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.records import StoredSamples
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import PreparedBatch, evaluate_batch
from r2t2_jax.evaluation.benchmark import ANSWER, ENCODE, part_name
from r2t2_jax.evaluation.encode import encode_prepared, prepare_questions
from r2t2_jax.evaluation.records import reference_rows, result_rows
from r2t2_jax.evaluation.setup import open_bank
from r2t2_jax.reproduction.conditions import Bench, open_bench
from r2t2_jax.reproduction.plan import Block, EvalTarget, SubjectPlan
from r2t2_jax.reproduction.spec import Condition
from r2t2_jax.runs.plan import Batch
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.batching import threads_at_a_time
from r2t2_jax.runtime.threads import prefetch

LIGHT = ("model", "strategy", "id", "category", "prediction", "score", "right", "used_fallback", "evaluations")
NOT_RUN = "not_run"  # the column that says why a model cannot do what a row asks
KEPT = 2  # blocks whose encoded questions are held: the one that is asked, and the next


def measure(
    run: Run, subjects: Sequence[EvalTarget], plans: Sequence[SubjectPlan], bank: Path | None, seed: int, size: int
) -> None:
    """Measure all that is missing.

    Args:
        run: whose plan has the parts of all subjects.
        subjects, plans: in one order.
        bank: directory of the references; without it those registered with the model are collected.
        seed: of everything drawn.
        size: questions a block.

    Raises:
        R2T2Error: as `open_bank` and `open_bench`.
        Stopped: the run is to end.
    """
    references: tuple[str, ReferenceBank] | None = None
    for subject, plan in zip(subjects, plans, strict=True):
        parts = [part.name for part in plan.parts(size)]
        if not run.todo(parts):
            continue
        if references is None or references[0] != subject.port.name:  # of one model at a time
            found = open_bank(subject.port, bank, subject.metric, subject.samples, keep_wrong=True)
            references = subject.port.name, found
        run.check()
        for batch in run.todo([plan.references]):
            run.append(batch, reference_rows(subject.name, references[1].records, np.asarray(references[1].routing)))
        asking = Asking(run, subject, plan, shared(references[1]), seed, size)
        answers = prefetch(asking.rows, run.todo(parts), threads_at_a_time())
        for batch, answered in zip(run.missing(parts), answers, strict=True):
            run.append(batch, answered)


def shared(bank: ReferenceBank) -> ReferenceBank:
    """The bank with its features behind a reader: any number of its parts then hold them once."""
    if bank.features is None:
        return bank
    return replace(bank, features=None, answers=None, reader=StoredSamples(bank.features, bank.answers))


class Asking:
    """Rows of a subject's blocks. They depend on nothing but the block and the measurement."""

    def __init__(
        self, run: Run, subject: EvalTarget, plan: SubjectPlan, bank: ReferenceBank, seed: int, size: int
    ) -> None:
        self._run, self._subject, self._plan = run, subject, plan
        self._size = min(size, plan.most)
        self._blocks: Mapping[str, Block] = {block.part: block for block in plan.blocks(size)}
        by_given: dict[Condition, dict[str, Any]] = {}
        for label, one in plan.measurements.items():
            by_given.setdefault(one.given, {})[label] = one.method
        self._benches: Mapping[Condition, Bench] = {
            given: open_bench(subject.port, bank, methods, given, subject.metric, seed)
            for given, methods in by_given.items()
        }
        self._encoding = threading.Lock()
        self._ready: dict[int, Mapping[Condition, PreparedBatch]] = {}

    def rows(self, batch: Batch) -> list[dict[str, Any]]:
        """The rows of one measurement of one block."""
        block = self._blocks[batch.part]
        one = self._plan.measurements[block.labels[batch.start]]
        ready = self._asked(block)[one.given]
        stop = min(block.stop, one.cases) - block.start
        at_path = (one.label,) if one.along else ()
        try:
            (result,) = evaluate_batch(ready, [one.label], stop=stop, chunk_size=self._size, at_path=at_path)
        except R2T2Error as error:
            if not one.optional:
                raise
            return [{"model": self._subject.name, "strategy": one.label, NOT_RUN: str(error)}]
        what = part_name(part_name(self._subject.name, one.label), ANSWER)
        self._run.time(what, stop, result.seconds_per_sample * stop)
        rows = result_rows(result, self._subject.name, ready.neighbors.records)
        return rows if one.detailed else [{key: row[key] for key in LIGHT} for row in rows]

    def _asked(self, block: Block) -> Mapping[Condition, PreparedBatch]:
        """A block's questions before every bench, encoded once; a block that is not full is filled up."""
        with self._encoding:
            if block.start not in self._ready:
                samples = self._subject.samples[block.start : block.stop]
                filled = [*samples, *[samples[-1]] * (self._size - len(samples))]
                port = self._subject.port
                questions = encode_prepared(
                    port, prepare_questions(port, filled), self._size, tqdm(disable=True), threads_at_a_time()
                )
                self._run.time(part_name(self._subject.name, ENCODE), 1, questions.seconds_per_sample)
                indices = np.minimum(np.arange(block.start, block.start + self._size), block.stop - 1)
                self._ready[block.start] = {
                    given: bench.prepare_batch(questions, indices) for given, bench in self._benches.items()
                }
                for old in sorted(self._ready)[:-KEPT]:
                    del self._ready[old]
            return self._ready[block.start]
