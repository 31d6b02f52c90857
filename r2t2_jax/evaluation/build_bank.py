"""Builds a reference bank on disk, batch by batch, in a run that can be resumed.

The bank's folder is a run (docs/runs.md) until `bank.json`, the last file of the bank, is written. Until then the rows
of finished batches are in the batch files of the run, so that memory does not grow with the bank. `collect_bank` builds
the same bank in memory.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import pyarrow as pa
import pyarrow.compute as pc

from r2t2_jax.bank.manifest import EMBEDDINGS, ROUTING, Manifest, fingerprints_of
from r2t2_jax.bank.records import Records, StoredLeaf, as_stored, as_table, stored_leaves
from r2t2_jax.bank.storage import BankRows, install, write_files
from r2t2_jax.contract import Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_references, labels
from r2t2_jax.evaluation.encode import BATCH, prepare_questions
from r2t2_jax.evaluation.question_sets import QuestionSet, sample_names
from r2t2_jax.evaluation.records import SHOWN, hardly_any, low_score_warning
from r2t2_jax.evaluation.setup import ModelSource
from r2t2_jax.method.forward import stored_features
from r2t2_jax.metrics import get_metric
from r2t2_jax.runs import batch_files
from r2t2_jax.runs.atomic_io import DRAFT, remove
from r2t2_jax.runs.cluster import Workers, devices_of
from r2t2_jax.runs.fingerprint import versions
from r2t2_jax.runs.folder import SUMMARY, read_json
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.run import Run, reraise_oserror
from r2t2_jax.runs.workers import Timing, WorkerProgram, open_pool
from r2t2_jax.runtime.batching import compute_ahead

COMMAND = "bank build"
ROW_GROUP = 1 << 12  # rows of a row group of the Parquet file

logger = logging.getLogger("r2t2")


@dataclass(frozen=True)
class BankConfig:
    """The references that are stored, and the size of batches.

    Args:
        limit: number of correctly answered references after which the rest of a set is skipped.
        keep: `all` references up to the limit, or only the `correct` ones.
        features: whether to store the features of each sample.
        batch: samples per batch.

    Raises:
        R2T2Error: the limit is below 1.
    """

    limit: int = 5000
    keep: Literal["all", "correct"] = "all"
    features: bool = False
    batch: int = BATCH

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise R2T2Error(f"a limit of {self.limit} correctly answered references gives no bank; use at least 1")


def build_bank(
    out: Path,
    port: Port,
    sets: Mapping[str, QuestionSet],
    config: BankConfig,
    settings: Mapping[str, Any],
    max_hours: float | None = None,
    log: Callable[[str], None] = logger.warning,
    workers: Workers | None = None,
    source: ModelSource | None = None,
) -> dict[str, Any]:
    """Build a bank in a folder, or resume building it.

    Args:
        out: the bank's folder.
        port: the model, with the embedder of its questions.
        sets: the samples, by the name that `source` has in the records.
        config: which references are stored.
        settings: the command's options, with which it can be resumed.
        max_hours: time limit from now.
        log: called with a warning for each set of which the model answers hardly any question correctly.
        workers: Ray workers that answer the questions; `None` for this process.
        source: how a worker opens the model.

    Returns:
        The summary: number of rows and of correct ones, in total and per set, and of answered questions per set.

    Raises:
        R2T2Error: the folder holds something else, the model or the embedder fails on a sample (named), or no question
            is answered correctly.
        RunInterrupted: a signal or `max_hours` stopped it; finished batches are saved.
    """
    plan = bank_plan(sets, config)
    data = {name: questions.digest for name, questions in sets.items()}
    limits = {name: questions.answering_port(port).max_new_tokens for name, questions in sets.items()}
    decoding = {"beams": port.beams, "max_new_tokens": limits}
    depends = {
        "versions": versions(devices_of(workers)),
        "fingerprints": vars(fingerprints_of(port)),
        "data": data,
        "metrics": {name: questions.metric for name, questions in sets.items()},
        "decoding": decoding,
    }
    with Run.open(out, COMMAND, settings, plan, depends, max_hours) as run:
        if not (out / SUMMARY).exists():
            _collect_missing(run, port, sets, config, workers, source)
            summary = _summarize(run, sets, config)
            for warning in _warnings(run, sets, summary):
                log(warning)
            if not summary["correct"]:
                run.discard()
                raise R2T2Error(f"{port.name} answered none of the questions correctly: there is no bank")
            manifest = _manifest(port, sets, config, summary)
            files = [EMBEDDINGS, ROUTING, *(leaf.file for leaves in manifest.stored.values() for leaf in leaves)]
            draft = out / f"{DRAFT}bank"
            try:
                with reraise_oserror(f"cannot write {out}"):
                    write_files(draft, manifest, _bank_rows(run, files, config))
                    install(draft, out)
            finally:
                remove(draft)
            run.finish(summary)
        batch_files.BatchFiles(out).remove()  # the bank's files hold all rows now
    return read_json(out / SUMMARY)


def bank_plan(sets: Mapping[str, QuestionSet], config: BankConfig) -> Plan:
    """A part for each set."""
    return Plan([Part(name, len(questions.samples), config.batch) for name, questions in sets.items()])


def _collect_missing(
    run: Run,
    port: Port,
    sets: Mapping[str, QuestionSet],
    config: BankConfig,
    workers: Workers | None,
    source: ModelSource | None,
) -> None:
    """Append the rows of every missing batch, computed on the devices of this process or on workers."""
    limit, settings = SetLimit(run, config), {name: replace(each, samples=()) for name, each in sets.items()}

    def questions_of(batch: Batch) -> Sequence[Sample]:
        return sets[batch.part].samples[batch.start : batch.stop]

    def candidates(batch: Batch) -> Sequence[Sample]:
        return () if limit.reached(batch.part) else questions_of(batch)

    def sample_names_of(batch: Batch) -> str:
        return sample_names(questions_of(batch))

    def save(results: Iterable[tuple[Batch, list[dict[str, Any]]]]) -> None:
        for batch, rows in results:
            run.append(batch, limit.choose(batch.part, rows))

    names, todo = run.plan.names, run.todo(run.plan.names)
    if workers is None:
        work = BankWork(_replicas(port), settings, config)
        rows = compute_ahead(lambda batch: work.rows(batch, candidates(batch)), todo, work.slots)
        save(zip(run.missing(), rows, strict=True))
        return
    arguments = {"source": source, "sets": settings, "config": config}
    with open_pool(workers, WorkerProgram("r2t2_jax.evaluation.build_bank:open_worker", arguments)) as pool:
        results = pool.results(
            run, names, candidates, sample_names_of, COMMAND, max_fatal=1
        )  # in order: no later batch is saved
        save(in_order(results, todo))


class SetLimit:
    """Applies the limit of correctly answered references to each set, batch by batch in the order of the plan.

    Args:
        run: its saved batches count.
        config: the limit, and which references are stored.
    """

    def __init__(self, run: Run, config: BankConfig) -> None:
        self._config, self._correct = config, Counter[str]()
        for batch, table in run.tables():
            self._correct[batch.part] += _count_correct(table)

    def reached(self, name: str) -> bool:
        """Whether a set has as many correctly answered references as it may have."""
        return self._correct[name] >= self._config.limit

    def choose(self, name: str, candidates: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows that are stored; none after the limit."""
        rows = []
        for row in candidates:
            if self.reached(name):
                break
            self._correct[name] += row["correct"]
            rows.append(row)
        return rows


def in_order(results: Iterable[tuple[Batch, Any]], batches: Iterable[Batch]) -> Iterator[tuple[Batch, Any]]:
    """Results in the order of the batches; those that arrive early wait in memory."""
    early: dict[int, Any] = {}
    arriving = iter(results)
    for batch in batches:
        while batch.number not in early:
            finished, rows = next(arriving)
            early[finished.number] = rows
        yield batch, early.pop(batch.number)
    next(arriving, None)  # ends the progress bar, and raises if the run was interrupted


def _replicas(port: Port) -> list[tuple[Port, jax.Device]]:
    """A copy of the model on each device of this process."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return [(port, devices[0])]
    return [(replace(port, params=jax.device_put(port.params, device)), device) for device in devices]


class BankWork:
    """Computes the candidates of a batch: every sample with its answer, before limits are applied.

    Args:
        replicas: copies of the model, and their devices.
        sets: metric and longest answer of each set; their samples are not read.
        config: which references are stored.
    """

    def __init__(
        self, replicas: Sequence[tuple[Port, jax.Device]], sets: Mapping[str, QuestionSet], config: BankConfig
    ) -> None:
        self._replicas, self._sets, self._config = replicas, sets, config
        self.slots = len(replicas) + 1  # one batch per device, and one that the host prepares meanwhile

    def rows(self, batch: Batch, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """The rows of a batch: records, and arrays by the name of the bank's file that will hold them."""
        if not samples:
            return []
        port, device = self._replicas[batch.number % len(self._replicas)]
        questions = self._sets[batch.part]
        with jax.default_device(device):
            return _rows(questions.answering_port(port), samples, batch.part, questions.metric, self._config)

    def __call__(self, batch: Batch, samples: Sequence[Sample]) -> tuple[list[dict[str, Any]], list[Timing]]:
        """The rows, as a worker returns them."""
        return self.rows(batch, samples), []


def open_worker(source: ModelSource, sets: Mapping[str, QuestionSet], config: BankConfig) -> BankWork:
    """The work of a Ray worker; raises as `ModelSource.open`."""
    ports, groups = source.open()
    return BankWork([(port, group.devices[0]) for port, group in zip(ports, groups, strict=True)], sets, config)


def _rows(port: Port, samples: Sequence[Sample], source: str, metric: str, config: BankConfig) -> list[dict[str, Any]]:
    prepared = prepare_questions(port, samples)
    references = collect_references(
        port, samples, prepared.inputs, prepared.embeddings, get_metric(metric), config.batch, config.features
    )
    arrays = {EMBEDDINGS: references.embeddings, ROUTING: references.routing}
    if config.features:
        for name, tree in {"features": references.features, "answers": labels(port, samples)}.items():
            for leaf, array in zip(stored_leaves(name, tree), as_stored(tree), strict=True):
                arrays[leaf.file] = array
    return [
        record | {name: array[i] for name, array in arrays.items()} | {"source": source, "image": record["id"]}
        for i, record in enumerate(references.records)
    ]


def _manifest(port: Port, sets: Mapping[str, QuestionSet], config: BankConfig, summary: Mapping[str, Any]) -> Manifest:
    samples = next(iter(sets.values())).samples[:2]
    return Manifest(
        fingerprints=fingerprints_of(port),
        rows=summary["rows"],
        correct=summary["correct"],
        embedding_size=port.embedder.embed([samples[0].question]).shape[1],
        routing_shape=port.model.spec.shape,
        spec=port.model.spec,
        sources=tuple(questions.source for questions in sets.values()),
        metric=", ".join(dict.fromkeys(questions.metric for questions in sets.values())),
        stored=_stored_leaves(port, samples) if config.features else {},
    )


def _stored_leaves(port: Port, samples: Sequence[Sample]) -> Mapping[str, Sequence[StoredLeaf]]:
    """The files and dtypes of features and answers, from the shapes of a few samples; runs no model."""
    inputs = port.processor.prepare(port.params, samples)
    answers = labels(port, samples)
    trees = {"features": stored_features(port, inputs, answers), "answers": answers}
    return {name: stored_leaves(name, tree) for name, tree in trees.items()}


def _count_correct(table: pa.Table) -> int:
    return sum(table["correct"].to_pylist()) if table.num_rows else 0


def _summarize(run: Run, sets: Mapping[str, QuestionSet], config: BankConfig) -> dict[str, Any]:
    """Number of rows and of correct ones, in total and per set; depends on the saved rows only."""
    answered, correct = Counter[str](), Counter[str]()
    for batch, table in run.tables():
        answered[batch.part] += table.num_rows
        correct[batch.part] += _count_correct(table)
    rows = answered if config.keep == "all" else correct
    sources = {
        name: {
            "questions": len(questions.samples),
            "answered": answered[name],
            "rows": rows[name],
            "correct": correct[name],
        }
        for name, questions in sets.items()
    }
    return {"rows": rows.total(), "correct": correct.total(), "sources": sources}


def _warnings(run: Run, sets: Mapping[str, QuestionSet], summary: Mapping[str, Any]) -> Iterator[str]:
    """A warning for each set of which hardly any answer is correct, with some answers and truths."""
    for name, counts in summary["sources"].items():
        if not hardly_any(counts["correct"], counts["answered"]):
            continue
        wrong: list[tuple[str, str]] = []
        for batch, table in run.tables():
            if batch.part == name and table.num_rows and len(wrong) < SHOWN:
                rows = table.filter(pc.invert(table["correct"]))
                wrong += zip(rows["prediction"].to_pylist(), rows["answer"].to_pylist(), strict=True)
        yield low_score_warning(name, sets[name].metric, counts["correct"], counts["answered"], wrong)


def _bank_rows(run: Run, files: Sequence[str], config: BankConfig) -> Iterator[BankRows]:
    """The rows of a run that the bank stores, one row group of the Parquet file at a time."""
    waiting: list[pa.Table] = []
    for _, table in run.tables():
        if table.num_rows and config.keep == "correct":
            table = table.filter(table["correct"])
        if table.num_rows:
            waiting.append(table)
        if sum(part.num_rows for part in waiting) >= ROW_GROUP:
            yield _as_bank_rows(batch_files.join(waiting), files)
            waiting = []
    if waiting:
        yield _as_bank_rows(batch_files.join(waiting), files)


def _as_bank_rows(table: pa.Table, files: Sequence[str]) -> BankRows:
    try:
        arrays = {name: batch_files.stack(table[name]) for name in files}
    except ValueError as error:
        raise R2T2Error(
            f"features of different shapes cannot be stored ({error}): the model pads to the longest sample of a "
            "batch; leave out --features, features are then computed again when they are needed"
        ) from error
    records = Records(table.drop_columns(list(files)))
    return BankRows(as_table(records, table["correct"].to_numpy(zero_copy_only=False)), arrays)
