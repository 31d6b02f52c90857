"""Compute what is missing of a reproduction, on the engine for long work.

Questions and references are encoded once a subject, whatever the number of tables. What rows are given decides who
their neighbours are; strategies which are given the same are prepared together, and those which differ in numbers
alone share a compiled program.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.evaluation.batches import run_batch, threads_at_a_time
from r2t2_jax.evaluation.evaluate import Evaluation, in_order_of_programs
from r2t2_jax.evaluation.opening import open_bank
from r2t2_jax.evaluation.outcomes import rows
from r2t2_jax.evaluation.questions import BATCH, Questions, encode_questions
from r2t2_jax.evaluation.recording import ANSWER, ENCODE, part_name
from r2t2_jax.reproduction.bench import bench
from r2t2_jax.reproduction.plan import Measurement, SubjectPlan
from r2t2_jax.reproduction.subjects import Subject
from r2t2_jax.reproduction.trials import Given
from r2t2_jax.runs.plan import Batch
from r2t2_jax.runs.run import Run

LIGHT = ("model", "strategy", "id", "category", "prediction", "score", "right", "fell_back", "evaluations")


def measure(run: Run, subjects: Sequence[Subject], plans: Sequence[SubjectPlan], bank: Path | None, seed: int) -> None:
    """Measure all that is missing.

    Args:
        run: whose plan has the parts of all subjects.
        subjects, plans: in one order.
        bank: directory of the references; without it those registered with the model are collected.
        seed: of everything drawn.

    Raises:
        R2T2Error: as `open_bank` and `bench`.
        Stopped: the run is to end.
    """
    references: tuple[str, ReferenceBank] | None = None
    for subject, plan in zip(subjects, plans, strict=True):
        if not run.todo([one.part for one in plan.measurements.values()]):
            continue
        if references is None or references[0] != subject.port.name:  # of one model at a time
            found = open_bank(subject.port, bank, subject.metric, subject.samples, keep_wrong=True)
            references = subject.port.name, found
        run.check()
        _measure_subject(run, subject, plan, references[1], seed)


def _measure_subject(run: Run, subject: Subject, plan: SubjectPlan, bank: ReferenceBank, seed: int) -> None:
    most = max(one.cases for one in plan.measurements.values())
    questions = encode_questions(subject.port, subject.samples[:most])
    run.time(part_name(subject.name, ENCODE), 1, questions.seconds_per_case)
    by_given: dict[Given, dict[str, Measurement]] = {}
    for label, one in plan.measurements.items():
        by_given.setdefault(one.given, {})[label] = one
    for given, wanted in by_given.items():
        parts = [one.part for one in wanted.values()]
        if not run.todo(parts):
            continue
        methods = {label: one.method for label, one in wanted.items()}
        ready = bench(subject.port, bank, questions, methods, given, subject.metric, seed)
        work = partial(_rows, run, ready, subject.name, {one.part: one for one in wanted.values()})
        order = [wanted[label].part for label in in_order_of_programs(methods)]
        run.compute(work, order, threads_at_a_time(), title=f"{subject.name}: {len(wanted)} rows")


def _rows(
    run: Run, ready: Evaluation, model: str, wanted: Mapping[str, Measurement], batch: Batch
) -> list[dict[str, Any]]:
    """The rows of one batch of one part."""
    one = wanted[batch.part]
    size, start = min(BATCH, one.cases), time.perf_counter()
    found = run_batch(partial(ready.answer, one.label), batch.start, batch.stop, size)
    run.time(part_name(batch.part, ANSWER), len(batch), time.perf_counter() - start)
    questions = ready.questions
    outcome = ready.outcome(one.label, found, batch.start)
    routing = np.asarray(questions.queries.routing)[batch.start : batch.stop]
    samples = questions.samples[batch.start : batch.stop]
    whole = rows(outcome, model, samples, routing, ready.lookup.bank.records)
    return whole if one.detailed else [{key: row[key] for key in LIGHT} for row in whole]
