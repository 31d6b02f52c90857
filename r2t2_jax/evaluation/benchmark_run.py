"""Benchmarks as parts of a run: batches that overlap, rows that survive, and the numbers that follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.compilation import Compilations
from r2t2_jax.contract import Sample
from r2t2_jax.evaluation.answering import ahead
from r2t2_jax.evaluation.asking import Asking
from r2t2_jax.evaluation.building import QuestionSet
from r2t2_jax.evaluation.recording import REFERENCES
from r2t2_jax.evaluation.summary import DIGITS, summarize
from r2t2_jax.metrics import SetScore
from r2t2_jax.runs.plan import Batch, Part
from r2t2_jax.runs.run import Run

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


def ask(run: Run, asking: Mapping[str, Asking], threads: int, say: Callable[[str], None]) -> None:
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
        R2T2Error: as `Asking.rows`.
    """

    def prepare(batch: Batch) -> tuple[Batch, Any]:
        return batch, asking[batch.part].prepare(batch)

    def compute(prepared: tuple[Batch, Any]) -> list[dict[str, Any]]:
        batch, inputs = prepared
        return asking[batch.part].rows(batch, inputs)

    score = _Running(run)
    found = ahead(compute, ahead(prepare, run.todo(list(asking)), PREPARED), threads)
    with Compilations() as compiled:
        known = 0
        for batch, rows in zip(run.missing(list(asking)), found, strict=True):
            run.append(batch, rows)
            score.add(rows)
            run.note = str(score)
            if compiled.programs + compiled.found > known:
                known = compiled.programs + compiled.found
                say(f"{batch.part}, questions {batch.start + 1:,} to {batch.stop:,}: so far {compiled}")


class _Running:
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
