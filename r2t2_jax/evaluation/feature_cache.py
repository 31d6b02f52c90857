"""Features of a bank's references, computed again from their images when they are asked for.

A bank on disk holds features only where somebody asked for them, since they outweigh everything else in it. What a
neighbourhood needs is then encoded anew: when asked for, in batches of one fixed size, and kept for the next query.

Axis letters: n rows asked for, B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from threading import Lock
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.manifest import Fingerprints, image_digest, processing_fingerprint
from r2t2_jax.contract import Answer, Features, Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.question_sets import load_source
from r2t2_jax.method.forward import encode_batch

BATCH = 16
KEPT_BYTES = 1 << 30  # of features, in host memory


def with_samples(bank: ReferenceBank, port: Port, samples: Sequence[Sample] | None = None) -> ReferenceBank:
    """A bank whose references' features `port` computes again on demand; one with features in memory stays as it is.

    Args:
        bank: of this very model, all rows or some.
        port: the model.
        samples: those of the bank, found by their ids; by default the bank's own sources are loaded.

    Raises:
        R2T2Error: the bank is another model's, or a reference's sample is not to be found.
    """
    bank.fingerprints.check("the bank", Fingerprints(port.fingerprint, processing=processing_fingerprint(port)))
    if bank.features is not None or bank.reader is not None:
        return bank
    return replace(bank, reader=FeatureCache(port, bank.records, _find(bank, samples)))


def on_port(bank: ReferenceBank, port: Port) -> ReferenceBank:
    """A bank whose features the same model computes on other devices, where it computes them."""
    return replace(bank, reader=bank.reader.on(port)) if isinstance(bank.reader, FeatureCache) else bank


def _find(bank: ReferenceBank, samples: Sequence[Sample] | None) -> Mapping[tuple[str, str], Sample]:
    """The sample of each source and id that the bank names; sources are not told apart among given samples."""
    wanted = {(record.get("source") or "", record["id"]) for record in bank.records}
    if samples is not None:
        given = {sample.id: sample for sample in samples}
        found = {(source, name): given[name] for source, name in wanted if name in given}
    else:
        found = {}
        for source in bank.sources:
            for sample in load_source(source):
                if (source.name, sample.id) in wanted:
                    found[source.name, sample.id] = sample
    missing = sorted(wanted - set(found))
    if missing:
        place, name = missing[0]
        raise R2T2Error(f"{len(missing)} references have no sample, first {name!r} of {place!r}: give its dataset")
    return found


class FeatureCache:
    """Features and answers of bank rows, with a leading axis n; safe to call from several threads."""

    def __init__(
        self, port: Port, records: Sequence[Mapping[str, Any]], samples: Mapping[tuple[str, str], Sample]
    ) -> None:
        self._port = port
        self._keys = [(record.get("source") or "", record["id"]) for record in records]
        self._digests = [record.get("image_sha256") or "" for record in records]
        self._samples = samples
        self._kept: dict[int, Any] = {}
        self._bytes = 0
        self._lock = Lock()

    def on(self, port: Port) -> FeatureCache:
        """The same samples, encoded by the model as it lies on other devices."""
        other = copy(self)
        other._port, other._kept, other._bytes, other._lock = port, {}, 0, Lock()
        return other

    def __call__(self, rows: Int[np.ndarray, "n"]) -> tuple[Features, Answer]:
        distinct, back = np.unique(rows, return_inverse=True)
        with self._lock:
            found = dict(zip(distinct.tolist(), self._look_up(distinct.tolist()), strict=True))
        answers = self._port.processor.answer_ids([self._sample(row).answers[0] for row in distinct.tolist()])
        features = jax.tree.map(lambda *leaves: np.stack(leaves), *(found[row] for row in distinct.tolist()))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[back.ravel()], (features, answers))

    def _sample(self, row: int) -> Sample:
        sample = self._samples[self._keys[row]]
        if self._digests[row] and image_digest(sample.image) != self._digests[row]:
            raise R2T2Error(f"the image of reference {sample.id!r} is not the one the bank was built with")
        return sample

    def _look_up(self, rows: list[int]) -> list[Any]:
        """Features of each row. Encoded rows of another length bucket do not stack with new ones: then all are new."""
        missing = [row for row in rows if row not in self._kept]
        new = dict(zip(missing, self._encode(missing), strict=True)) if missing else {}
        found = [new[row] if row in new else self._kept[row] for row in rows]
        if len({tuple(leaf.shape for leaf in jax.tree.leaves(features)) for features in found}) > 1:
            found = self._encode(rows)
        self._keep(dict(zip(rows, found, strict=True)))
        return found

    def _encode(self, rows: list[int]) -> list[Any]:
        """Features of each row, prepared together so that they share a length bucket."""
        size = -(-len(rows) // BATCH) * BATCH  # whole batches: a new number of rows compiles nothing
        samples = [self._sample(row) for row in rows]
        inputs = self._port.processor.prepare(self._port.params, samples + samples[-1:] * (size - len(rows)))
        features: list[Any] = []
        for first in range(0, size, BATCH):
            batch = jax.tree.map(lambda leaf, first=first: leaf[first : first + BATCH], inputs)  # [B, ...]
            encoded, _ = encode_batch(self._port.params, batch, model=self._port.model)
            encoded = jax.tree.map(np.asarray, encoded)
            features += [jax.tree.map(lambda leaf, i=i: leaf[i], encoded) for i in range(BATCH)]
        return features[: len(rows)]

    def _keep(self, features: Mapping[int, Any]) -> None:
        """Remember features, and forget the oldest beyond the limit."""
        for row, tree in features.items():
            self._bytes -= _size(self._kept.pop(row, ()))
            self._kept[row] = tree
            self._bytes += _size(tree)
        while self._bytes > KEPT_BYTES:
            self._bytes -= _size(self._kept.pop(next(iter(self._kept))))


def _size(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
