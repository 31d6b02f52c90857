"""Build a bank on disk: ask a model the questions of some sets, batch by batch, and survive whatever happens meanwhile.

The bank's folder is a run (docs/runs.md) until `bank.json`, the last of the bank's files, appears in it. Until then the
rows of finished batches lie in the run's shards; nothing in memory grows with the bank.

Axis letters: N bank size, L routed layers, E experts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from r2t2_jax.bank.fingerprints import fingerprints_of
from r2t2_jax.bank.folder import Batch, install, write_files
from r2t2_jax.bank.manifest import EMBEDDINGS, ROUTING, Manifest, Source
from r2t2_jax.bank.records import Records, as_table
from r2t2_jax.contract import Embedder, Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.answering import Answering, ahead
from r2t2_jax.metrics import get_metric
from r2t2_jax.runs import columns
from r2t2_jax.runs.files import DRAFT, remove
from r2t2_jax.runs.folder import SUMMARY, read_json
from r2t2_jax.runs.identity import versions
from r2t2_jax.runs.plan import Batch as Planned
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.run import Run
from r2t2_jax.runs.shards import shard_paths

COMMAND = "bank build"
GROUP_ROWS = 1 << 12  # rows of one row group of the Parquet file


@dataclass(frozen=True)
class QuestionSet:
    """Samples of one source, in the order in which they are asked, and the name of the metric that scores them."""

    source: Source
    samples: Sequence[Sample]
    metric: str

    @property
    def digest(self) -> str:
        """Changes with ids, questions and answers."""
        found = hashlib.sha256()
        for sample in self.samples:
            found.update(repr((sample.id, sample.question, sample.answers, sample.options, sample.style)).encode())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Wanted:
    """What is kept of the answers.

    Args:
        limit: correctly answered references after which a set is left.
        keep: `all` rows up to there, or the `correct` ones alone.
        features: whether to store what the model computes of each sample.
        batch: samples at a time.
    """

    limit: int = 5000
    keep: Literal["all", "correct"] = "all"
    features: bool = False
    batch: int = 50

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise R2T2Error(f"a limit of {self.limit} correctly answered references leaves no bank; ask for at least 1")


def build_bank(
    out: Path,
    port: Port,
    embedder: Embedder,
    sets: Mapping[str, QuestionSet],
    wanted: Wanted,
    settings: Mapping[str, Any],
    max_hours: float | None = None,
) -> dict[str, Any]:
    """Build a bank in `out`, or go on with one.

    Args:
        out: the bank's folder.
        port, embedder: the model, and what embeds its questions.
        sets: what to ask, by the name that `source` has in the records.
        wanted: what to keep.
        settings: the command's options, with which it can be resumed.
        max_hours: how long to go on from here.

    Returns:
        The summary: rows, correct ones, and for each set what was asked, kept and answered correctly.

    Raises:
        R2T2Error: the folder holds something else, the model or the embedder fails on a sample (named), or no question
            is answered correctly.
        Stopped: a signal or `max_hours` ended it; what was done is saved.
    """
    fingerprints = fingerprints_of(port, embedder)
    answering = Answering(port, embedder, wanted.batch, wanted.features)
    plan = Plan([Part(name, len(one.samples), wanted.batch) for name, one in sets.items()])
    data = {name: one.digest for name, one in sets.items()}
    depends = {"versions": versions(), "fingerprints": vars(fingerprints), "data": data}
    with Run.open(out, COMMAND, settings, plan, depends, max_hours) as run:
        if not run.complete:
            _answer(run, answering, sets, wanted)
            summary = _summarize(run, sets)
            if not summary["correct"]:
                raise R2T2Error(f"{port.name} answered none of the questions correctly: there is no bank")
            first = next(iter(sets.values())).samples[:2]
            stored = answering.stored(first)
            manifest = Manifest(
                fingerprints=fingerprints,
                rows=summary["rows"],
                correct=summary["correct"],
                embedding_size=embedder.embed([first[0].question]).shape[1],
                routing_shape=port.model.spec.shape,
                spec=port.model.spec,
                sources=tuple(one.source for one in sets.values()),
                metric=", ".join(dict.fromkeys(one.metric for one in sets.values())),
                stored=stored,
            )
            files = [EMBEDDINGS, ROUTING, *(leaf.file for leaves in stored.values() for leaf in leaves)]
            write_files(out / f"{DRAFT}bank", manifest, _batches(run, files))
            install(out / f"{DRAFT}bank", out)
            run.finish(summary)
        for shard in shard_paths(out):
            remove(shard)  # the bank has all rows now
    return read_json(out / SUMMARY)


def _answer(run: Run, answering: Answering, sets: Mapping[str, QuestionSet], wanted: Wanted) -> None:
    """Append the rows of every missing batch; a set that has reached its limit gets empty ones."""
    right: Counter[str] = Counter()
    for batch, table in run.tables():
        right[batch.part] += _count(table)

    def work(batch: Planned) -> list[dict[str, Any]]:
        if right[batch.part] >= wanted.limit:
            return []
        one = sets[batch.part]
        found = answering.rows(batch.number, one.samples[batch.start : batch.stop], get_metric(one.metric))
        return [row | {"source": batch.part, "image": row["id"]} for row in found]

    todo = run.todo(run.plan.names)
    for batch, rows in zip(run.missing(), ahead(work, todo, answering.workers), strict=True):
        kept = []
        for row in rows:
            if right[batch.part] >= wanted.limit:
                break
            right[batch.part] += row["correct"]
            if row["correct"] or wanted.keep == "all":
                kept.append(row)
        run.append(batch, kept)


def _count(table: pa.Table) -> int:
    return sum(table["correct"].to_pylist()) if table.num_rows else 0


def _summarize(run: Run, sets: Mapping[str, QuestionSet]) -> dict[str, Any]:
    """Rows and correct ones, in all and of each set; the same whoever computed them and when."""
    rows, right = Counter[str](), Counter[str]()
    for batch, table in run.tables():
        rows[batch.part] += table.num_rows
        right[batch.part] += _count(table)
    each = {
        name: {"questions": len(one.samples), "rows": rows[name], "correct": right[name]} for name, one in sets.items()
    }
    return {"rows": rows.total(), "correct": right.total(), "sources": each}


def _batches(run: Run, files: Sequence[str]) -> Iterator[Batch]:
    """The rows of a run, a row group of the Parquet file at a time."""
    waiting: list[pa.Table] = []
    for _, table in run.tables():
        if table.num_rows:
            waiting.append(table)
        if sum(part.num_rows for part in waiting) >= GROUP_ROWS:
            yield _as_batch(columns.join(waiting), files)
            waiting = []
    if waiting:
        yield _as_batch(columns.join(waiting), files)


def _as_batch(table: pa.Table, files: Sequence[str]) -> Batch:
    try:
        arrays = {name: columns.stack(table[name]) for name in files}
    except ValueError as error:
        raise R2T2Error(
            f"features of different shapes cannot be stored ({error}): the model pads to the length of a batch; "
            "leave out --features, they are then computed again when asked for"
        ) from error
    records = Records(table.drop_columns(list(files)))
    return Batch(as_table(records, table["correct"].to_numpy(zero_copy_only=False)), arrays)
