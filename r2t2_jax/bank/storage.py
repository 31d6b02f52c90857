"""A bank in memory to a directory and back, and banks laid end to end.

Axis letters: N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r2t2_jax.bank.atlas import ATLAS, open_atlas
from r2t2_jax.bank.fingerprints import Fingerprints
from r2t2_jax.bank.folder import Batch, open_files, write_bank
from r2t2_jax.bank.manifest import EMBEDDINGS, RECORDS, ROUTING, STORED, Manifest, read_manifest
from r2t2_jax.bank.records import Records, as_table, read_correct
from r2t2_jax.bank.reference_bank import ReferenceBank
from r2t2_jax.bank.samples import Joined, StoredSamples, as_stored, open_leaves, stored_leaves
from r2t2_jax.errors import R2T2Error

ROWS = 1 << 16  # rows written at a time


def store(bank: ReferenceBank, path: Path) -> None:
    """`ReferenceBank.save`."""
    right = bank.right
    stored, leaves = {}, {}
    if bank.features is not None:
        trees = dict(zip(STORED, (bank.features, bank.answers), strict=True))
        stored = {name: stored_leaves(name, tree) for name, tree in trees.items()}
        leaves = {leaf.file: a for name in stored for leaf, a in zip(stored[name], as_stored(trees[name]), strict=True)}
    manifest = Manifest(
        fingerprints=bank.fingerprints,
        rows=len(bank),
        correct=int(right.sum()),
        embedding_size=bank.embeddings.shape[1],
        routing_shape=(bank.routing.shape[1], bank.routing.shape[2]),
        spec=bank.spec,
        sources=bank.sources,
        metric=bank.metric,
        stored=stored,
    )
    table = as_table(bank.records, right)
    arrays = {EMBEDDINGS: bank.embeddings, ROUTING: bank.routing} | leaves

    def batches() -> Iterator[Batch]:
        for first in range(0, len(bank), ROWS):
            rows = {name: np.asarray(array[first : first + ROWS]) for name, array in arrays.items()}
            yield Batch(table.slice(first, ROWS), rows)

    write_bank(path, manifest, batches())


def open_stored(path: Path, expected: Fingerprints) -> ReferenceBank:
    """`ReferenceBank.open`."""
    manifest, embeddings, routing = open_files(path)
    manifest.fingerprints.check(str(path), expected)
    return ReferenceBank(
        features=None,
        answers=None,
        routing=routing,
        embeddings=embeddings,
        records=Records(path / RECORDS),
        model_fingerprint=manifest.fingerprints.model,
        embedder_fingerprint=manifest.fingerprints.embedder,
        processing_fingerprint=manifest.fingerprints.processing,
        correct=None if manifest.correct == manifest.rows else read_correct(path / RECORDS),
        spec=manifest.spec,
        sources=manifest.sources,
        metric=manifest.metric,
        folder=path,
        origin=path,
        atlas=open_atlas(path / ATLAS) if (path / ATLAS).is_dir() else None,
    )


def with_stored_samples(bank: ReferenceBank, features: Any, answers: Any) -> ReferenceBank:
    """An opened bank that hands out the features and answers stored in its directory, memory-mapped.

    Args:
        bank: as opened, before any row is taken.
        features, answers: trees with the structure of the model's, such as those of the test samples.

    Raises:
        R2T2Error: the directory stores none, or those of another model.
    """
    if bank.folder is None or not (stored := read_manifest(bank.folder).stored):
        raise R2T2Error(
            f"{bank.folder or 'this bank'} stores no features; build it with --features, or give it a model"
        )
    trees = (
        open_leaves(bank.folder, stored[name], like) for name, like in zip(STORED, (features, answers), strict=True)
    )
    return replace(bank, reader=StoredSamples(*trees))


def concatenate(banks: Sequence[ReferenceBank]) -> ReferenceBank:
    """Banks laid end to end.

    Raises:
        R2T2Error: there is none, or they were computed by different things (both are named).
    """
    if not banks:
        raise R2T2Error("there is no bank to concatenate")
    first = banks[0]
    for bank in banks[1:]:
        bank.fingerprints.check("a bank to be added", first.fingerprints)
        for name in ("spec", "metric"):
            if getattr(bank, name) != getattr(first, name):
                raise R2T2Error(
                    f"banks with {name} {getattr(first, name)} and {getattr(bank, name)} do not go together"
                )
    in_memory = all(bank.features is not None for bank in banks)
    arrays = [(bank.features, bank.answers) if in_memory else (None, None) for bank in banks]
    features, answers = jax.tree.map(lambda *leaves: np.concatenate(leaves), *arrays)
    right = np.concatenate([bank.right for bank in banks])
    return replace(
        first,
        features=features,
        answers=answers,
        routing=np.concatenate([bank.routing for bank in banks]),
        embeddings=np.concatenate([bank.embeddings for bank in banks]),
        records=[record for bank in banks for record in bank.records],
        correct=None if right.all() else right,
        reader=None if in_memory else _joined(banks),
        sources=tuple(dict.fromkeys(source for bank in banks for source in bank.sources)),
        folder=None,
        origin=None,
    )


def _joined(banks: Sequence[ReferenceBank]) -> Joined | None:
    if any(bank.features is None and bank.reader is None for bank in banks):
        return None
    return Joined([bank.samples for bank in banks], np.cumsum([0, *map(len, banks[:-1])]))
