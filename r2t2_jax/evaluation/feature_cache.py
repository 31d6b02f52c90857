"""Computes the features of a bank's references on demand from their images, and caches them.

A bank on disk stores features only with `--features`, since they are larger than everything else. Otherwise the
references of a neighborhood are encoded when a strategy reads them, in batches of a fixed size, and cached in at most a
quarter of the host's memory. `SharedSamples` lets the strategies of one batch share what they read, also beyond that.

Axis letters: n rows of the bank, B samples of a batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.manifest import Fingerprints, image_digest, processing_fingerprint
from r2t2_jax.bank.records import SampleReader, StoredSamples
from r2t2_jax.contract import Answer, Features, Port, Sample, default_vmap_size
from r2t2_jax.costs.memory import format_size, host_memory
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.question_sets import load_source
from r2t2_jax.method.forward import condition_batch, encode_batch
from r2t2_jax.retrieval import INDEX
from r2t2_jax.runtime.pytrees import tree_bytes

BATCH = 16
CACHE_BYTES = 1 << 30  # of features, in host memory: the least size of the cache
CACHE_SHARE = 0.25  # of the host's memory


def with_samples(bank: ReferenceBank, port: Port, samples: Sequence[Sample] | None = None) -> ReferenceBank:
    """The bank with features that `port` computes on demand; a bank with features in memory is returned unchanged.

    Args:
        bank: of this model, all rows or some.
        port: the model.
        samples: contain those of the bank, matched by id; by default the bank's own sources are loaded.

    Raises:
        R2T2Error: the bank belongs to another model, or the sample of a reference is missing.
    """
    bank.fingerprints.check("the bank", Fingerprints(port.fingerprint, processing=processing_fingerprint(port)))
    if bank.features is not None or bank.reader is not None:
        return bank
    return replace(bank, reader=FeatureCache(port, bank.records, _samples_of(bank, samples)))


def on_port(bank: ReferenceBank, port: Port) -> ReferenceBank:
    """The bank with features that `port`, a copy of the same model on other devices, computes on demand."""
    return replace(bank, reader=bank.reader.to_device(port)) if isinstance(bank.reader, FeatureCache) else bank


def _samples_of(bank: ReferenceBank, samples: Sequence[Sample] | None) -> Mapping[tuple[str, str], Sample]:
    """The sample of each (source, id) of the bank; given samples are matched by id only."""
    names = {(record.get("source") or "", record["id"]) for record in bank.records}
    if samples is not None:
        by_id = {sample.id: sample for sample in samples}
        matched = {(source, name): by_id[name] for source, name in names if name in by_id}
    else:
        loaded = (((source.name, sample.id), sample) for source in bank.sources for sample in load_source(source))
        matched = {key: sample for key, sample in loaded if key in names}
    missing = sorted(names - set(matched))
    if missing:
        source_name, name = missing[0]
        raise R2T2Error(
            f"{len(missing)} references have no sample, first {name!r} of {source_name!r}: give its dataset"
        )
    return matched


class SharedSamples:
    """Features and answers of some rows of a bank, read at first use and kept for further strategies."""

    def __init__(self, read: SampleReader, rows: Int[np.ndarray, "n"]) -> None:
        """`rows` are sorted and distinct."""
        self._read, self._rows = read, rows

    @cached_property
    def _samples(self) -> tuple[Features, Answer]:
        return jax.tree.map(np.asarray, self._read(self._rows))

    def __call__(self, rows: Int[np.ndarray, "n"]) -> tuple[Features, Answer]:
        places = np.searchsorted(self._rows, rows)
        return jax.tree.map(lambda leaf: leaf[places], self._samples)


@dataclass
class CachedFeatures:
    """Features by row of the bank, at most `limit` bytes; the least recently used rows are dropped."""

    limit: int
    read: int = 0  # rows requested so far
    encoded: int = 0  # of these, rows that were not in the cache
    _rows: dict[int, Any] = field(default_factory=dict)
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def get(self, rows: Sequence[int]) -> dict[int, Any]:
        """The features of those rows that are cached."""
        with self._lock:
            cached = {row: self._rows[row] for row in rows if row in self._rows}
            self.read += len(rows)
            self.encoded += len(rows) - len(cached)
        return cached

    def put(self, features: Mapping[int, Any]) -> None:
        """Keep features, and drop the oldest beyond the limit."""
        with self._lock:
            for row, tree in features.items():
                self._bytes -= tree_bytes(self._rows.pop(row, ()))
                self._rows[row] = tree
                self._bytes += tree_bytes(tree)
            while self._bytes > self.limit:
                self._bytes -= tree_bytes(self._rows.pop(next(iter(self._rows))))

    def __str__(self) -> str:
        share = 100 * (1 - self.encoded / self.read) if self.read else 0.0
        return (
            f"features of references: {self.read:,} read, {share:.0f} % of them from the cache "
            f"({format_size(self._bytes)} of at most {format_size(self.limit)})"
        )


class FeatureCache:
    """Features and answers of bank rows, with a leading axis n; safe to call from several threads."""

    def __init__(
        self, port: Port, records: Sequence[Mapping[str, Any]], samples: Mapping[tuple[str, str], Sample]
    ) -> None:
        self._port = port
        self._keys = [(record.get("source") or "", record["id"]) for record in records]
        self._digests = [record.get("image_sha256") or "" for record in records]
        self.samples = samples
        self.cached = CachedFeatures(max(CACHE_BYTES, int(CACHE_SHARE * host_memory())))
        self._lock = Lock()

    def to_device(self, port: Port) -> FeatureCache:
        """A reader for a copy of the model on other devices; what either computes, both have."""
        other = copy(self)
        other._port, other._lock = port, Lock()
        return other

    def __call__(self, rows: Int[np.ndarray, "n"]) -> tuple[Features, Answer]:
        distinct, back = np.unique(rows, return_inverse=True)
        with self._lock:
            features_of = dict(zip(distinct.tolist(), self._look_up(distinct.tolist()), strict=True))
        features = jax.tree.map(lambda *leaves: np.stack(leaves), *(features_of[row] for row in distinct.tolist()))
        if self._conditions:  # the answers that the features were made with, of the same length
            features, answers = features
        else:
            answers = self._answers([self._sample(row) for row in distinct.tolist()])
        return jax.tree.map(lambda leaf: np.asarray(leaf)[back.ravel()], (features, answers))

    @property
    def _conditions(self) -> bool:
        return hasattr(self._port.model, "condition")

    def _answers(self, samples: Sequence[Sample]) -> Answer:
        return self._port.processor.answer_ids([sample.answers[0] for sample in samples])

    def _sample(self, row: int) -> Sample:
        sample = self.samples[self._keys[row]]
        if self._digests[row] and image_digest(sample.image) != self._digests[row]:
            raise R2T2Error(f"the image of reference {sample.id!r} is not the one the bank was built with")
        return sample

    def _look_up(self, rows: list[int]) -> list[Any]:
        """Features of each row. If cached and new rows differ in length bucket, all rows are encoded together."""
        cached = self.cached.get(rows)
        missing = [row for row in rows if row not in cached]
        new = dict(zip(missing, self._encode(missing), strict=True)) if missing else {}
        features = [new[row] if row in new else cached[row] for row in rows]
        if len({tuple(leaf.shape for leaf in jax.tree.leaves(tree)) for tree in features}) > 1:
            features = self._encode(rows)
        self.cached.put(dict(zip(rows, features, strict=True)))
        return features

    def _encode(self, rows: list[int]) -> list[Any]:
        """Features of each row, with its answer if the model conditions on it.

        All rows are prepared together, so that they share a length bucket.
        """
        size = -(-len(rows) // BATCH) * BATCH  # whole batches, so that another number of rows needs no compilation
        samples = [self._sample(row) for row in rows]
        samples += samples[-1:] * (size - len(rows))
        inputs = self._port.processor.prepare(self._port.params, samples)
        answers = self._answers(samples) if self._conditions else None
        features: list[Any] = []
        model = self._port.model
        for first in range(0, size, BATCH):
            batch, labels = jax.tree.map(lambda leaf, first=first: leaf[first : first + BATCH], (inputs, answers))
            encoded, _ = encode_batch(self._port.params, batch, model=model, vmap_size=default_vmap_size(model))
            if self._conditions:
                encoded = condition_batch(self._port, encoded, labels), labels
            encoded = jax.tree.map(np.asarray, encoded)
            features += [jax.tree.map(lambda leaf, i=i: leaf[i], encoded) for i in range(BATCH)]
        return features[: len(rows)]


@dataclass(frozen=True)
class BankArrays:
    """A bank without file handles, locks or device arrays: what can be sent to another process.

    Args:
        bank: with all arrays in host memory and without a reader.
        samples: of the references, if the worker computes their features again; `None` if the bank has features.
        index: files of the bank's search index, by relative path; empty if none is saved.
        workers: that share the memory of a host.
    """

    bank: ReferenceBank
    samples: Mapping[tuple[str, str], Sample] | None
    index: Mapping[str, bytes]
    workers: int = 1

    @classmethod
    def of(cls, bank: ReferenceBank, workers: int = 1) -> BankArrays:
        """The arrays of a bank; those that are memory-mapped stay so, and are read when they are sent."""
        features, answers, samples = bank.features, bank.answers, None
        if isinstance(bank.reader, FeatureCache):
            samples = bank.reader.samples
        elif isinstance(bank.reader, StoredSamples):
            features, answers = bank.reader.features, bank.reader.answers
        elif bank.reader is not None:
            features, answers = bank.samples(np.arange(len(bank)))
        arrays = jax.tree.map(np.asarray, (features, answers, bank.routing, bank.embeddings))
        atlas = bank.atlas
        if atlas is not None:
            points, losses, slopes = jax.tree.map(np.asarray, (atlas.points, atlas.losses, atlas.slopes))
            atlas = replace(atlas, points=points, losses=losses, slopes=slopes)
        names = ("features", "answers", "routing", "embeddings")
        folder = None if bank.origin is None else bank.origin / INDEX
        files = [path for path in folder.rglob("*") if path.is_file()] if folder else []
        plain = replace(
            bank,
            **dict(zip(names, arrays, strict=True)),
            records=[dict(record) for record in bank.records],
            reader=None,
            folder=None,
            origin=None,
            atlas=atlas,
        )
        saved = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if folder}
        return cls(plain, samples, saved, workers)

    def open(self, port: Port) -> ReferenceBank:
        """The bank, for a model on this process's devices."""
        bank = self.bank
        if self.index:
            folder = Path(tempfile.mkdtemp(prefix="r2t2-index-"))
            for name, content in self.index.items():
                path = folder / INDEX / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            bank = replace(bank, origin=folder)
        if self.samples is None:
            return bank
        reader = FeatureCache(port, bank.records, self.samples)
        reader.cached.limit = max(CACHE_BYTES, reader.cached.limit // self.workers)
        return replace(bank, reader=reader)
