"""Build a bank on disk: ask a model the questions of some sets, batch by batch, and survive whatever happens meanwhile.

The bank's folder is a run (docs/runs.md) until `bank.json`, the last of the bank's files, appears in it. Until then the
rows of finished batches lie in the run's shards; nothing in memory grows with the bank.

Axis letters: N bank size, L routed layers, E experts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np
import pyarrow as pa
from jaxtyping import Float

from r2t2_jax.bank.manifest import EMBEDDINGS, ROUTING, Manifest, fingerprints_of, image_digest
from r2t2_jax.bank.records import Records, StoredLeaf, as_stored, as_table, stored_leaves
from r2t2_jax.bank.storage import Batch, install, write_files
from r2t2_jax.contract import Embedder, Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.question_sets import QuestionSet
from r2t2_jax.evaluation.records import make_record
from r2t2_jax.method.forward import encode_batch, generate_batch
from r2t2_jax.metrics import Metric, get_metric
from r2t2_jax.runs import batch_files as columns
from r2t2_jax.runs.atomic_io import DRAFT, remove
from r2t2_jax.runs.batch_files import shard_paths
from r2t2_jax.runs.fingerprint import versions
from r2t2_jax.runs.folder import SUMMARY, read_json
from r2t2_jax.runs.plan import Batch as Planned
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.batching import take
from r2t2_jax.runtime.checks import UNIT_TOLERANCE
from r2t2_jax.runtime.threads import worker_threads

T = TypeVar("T")
U = TypeVar("U")


class ReferenceCollector:
    """Rows of batches: records, and arrays by the name of the bank's file that will hold them.

    Args:
        port: the model.
        embedder: of the questions.
        size: samples a batch; a smaller one is filled up, so that one compiled program serves all.
        features: whether rows hold what the model computes of a sample, and the answer's tokens.
    """

    def __init__(self, port: Port, embedder: Embedder, size: int, features: bool) -> None:
        self._port, self._embedder, self._size, self._features = port, embedder, size, features
        self._ports: dict[jax.Device, Port] = {}

    @cached_property
    def _devices(self) -> list[jax.Device]:
        return jax.local_devices()

    @property
    def workers(self) -> int:
        """Batches at a time: one a device, and one that is prepared on the host meanwhile."""
        return len(self._devices) + 1

    def rows(self, number: int, samples: Sequence[Sample], metric: Metric) -> list[dict[str, Any]]:
        """The rows of one batch, on the device whose turn it is; they do not depend on which.

        Raises:
            R2T2Error: a feature, a routing weight or an embedding is NaN, or an embedding is zero; names the samples.
        """
        device = self._devices[number % len(self._devices)]
        filled = [*samples, *[samples[-1]] * (self._size - len(samples))]
        with jax.default_device(device):
            port = self._on(device)
            inputs = port.processor.prepare(port.params, filled)
            features, routing = encode_batch(port.params, inputs, model=port.model)
            tokens = np.asarray(generate_batch(port, features, None))
        predictions = port.processor.decode(tokens[: len(samples)])
        arrays = {EMBEDDINGS: self._embed(samples), ROUTING: np.asarray(routing, np.float32)[: len(samples)]}
        _check(f"{port.name}: routing", samples, ~np.isfinite(arrays[ROUTING]).all(axis=(1, 2)), "NaN or infinite")
        if self._features:
            arrays |= self._stored_arrays(features, samples)
        return [
            make_record(sample, prediction, metric(prediction, sample))
            | {"image_sha256": image_digest(sample.image)}
            | {name: array[i] for name, array in arrays.items()}
            for i, (sample, prediction) in enumerate(zip(samples, predictions, strict=True))
        ]

    def stored(self, samples: Sequence[Sample]) -> Mapping[str, Sequence[StoredLeaf]]:
        """How features and answers are stored; empty where they are not. Needs a sample or two and computes nothing."""
        if not self._features:
            return {}
        port = self._port
        inputs = port.processor.prepare(port.params, samples)
        features, _ = jax.eval_shape(
            lambda params, inputs: encode_batch(params, inputs, model=port.model), port.params, inputs
        )
        answers = port.processor.answer_ids([sample.answers[0] for sample in samples])
        return {name: stored_leaves(name, tree) for name, tree in {"features": features, "answers": answers}.items()}

    def _on(self, device: jax.Device) -> Port:
        if len(self._devices) == 1:
            return self._port
        if device not in self._ports:
            self._ports[device] = replace(self._port, params=jax.device_put(self._port.params, device))
        return self._ports[device]

    def _embed(self, samples: Sequence[Sample]) -> Float[np.ndarray, "B M"]:
        vectors = np.asarray(self._embedder.embed([sample.question for sample in samples]), np.float32)
        length = np.square(vectors).sum(axis=1)
        _check("question embeddings", samples, ~np.isfinite(length), "NaN or infinite")
        _check("question embeddings", samples, length == 0, "zero")
        _check("question embeddings", samples, np.abs(length - 1) > UNIT_TOLERANCE, "not of unit length")
        return vectors

    def _stored_arrays(self, features: Any, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        answers = self._port.processor.answer_ids([sample.answers[0] for sample in samples])
        arrays = {}
        for name, tree in {"features": take(features, np.arange(len(samples))), "answers": answers}.items():
            for leaf, array in zip(stored_leaves(name, tree), as_stored(tree), strict=True):
                arrays[leaf.file] = array
        return arrays


def _check(what: str, samples: Sequence[Sample], bad: np.ndarray, fault: str) -> None:
    if bad.any():
        names = [sample.id for sample, wrong in zip(samples, bad, strict=True) if wrong]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise R2T2Error(f"{what} of {shown} are {fault}: drop those samples, or mend what computes them")


def prefetch(work: Callable[[T], U], items: Iterable[T], workers: int) -> Iterator[U]:
    """`work` of every item in order, with as many more begun before they are asked for."""
    waiting: deque[Any] = deque()
    with worker_threads(workers) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


COMMAND = "bank build"
GROUP_ROWS = 1 << 12  # rows of one row group of the Parquet file


@dataclass(frozen=True)
class BankConfig:
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
    wanted: BankConfig,
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
    answering = ReferenceCollector(port, embedder, wanted.batch, wanted.features)
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


def _answer(run: Run, answering: ReferenceCollector, sets: Mapping[str, QuestionSet], wanted: BankConfig) -> None:
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
    for batch, rows in zip(run.missing(), prefetch(work, todo, answering.workers), strict=True):
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
