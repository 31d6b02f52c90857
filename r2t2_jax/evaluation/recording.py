"""Strategies over a test set as parts of a run: rows that survive, and the numbers that follow from them.

A model has one part for its references and one for each strategy. Whatever is not in the rows (features,
neighbours) is computed again by a process that goes on, and skipped for a model whose parts are complete.

Axis letters: B test samples, L routed layers, E experts.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from r2t2_jax.contract import Port, Sample
from r2t2_jax.evaluation.batches import Rows, run_batch, threads_at_a_time
from r2t2_jax.evaluation.collect import collect_bank, with_shipped_atlas
from r2t2_jax.evaluation.evaluate import Evaluation, in_order_of_programs, prepare
from r2t2_jax.evaluation.lookup import Method
from r2t2_jax.evaluation.outcomes import rows
from r2t2_jax.evaluation.questions import BATCH, encode_questions
from r2t2_jax.metrics import Metric
from r2t2_jax.runs.plan import Batch, Part
from r2t2_jax.runs.run import Run

REFERENCES = "references"  # the table of a model's references, answered correctly or not
ENCODE, ANSWER = "encode", "answer"  # what is timed


def parts(model: str, strategies: Sequence[str], references: int, tests: int) -> list[Part]:
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
    run.time(part_name(port.name, ENCODE), 1, questions.seconds_per_case)
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


def seconds_per_case(times: Mapping[str, float], model: str, strategies: Sequence[str]) -> dict[str, float]:
    """Measured seconds a case of each strategy, the encoding of the case included."""
    encode = times[part_name(model, ENCODE)]
    return {name: encode + times[part_name(part_name(model, name), ANSWER)] for name in strategies}
