"""A bank in memory to a directory and back, and banks laid end to end.

Axis letters: N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from r2t2_jax.bank.atlas import ATLAS, open_atlas
from r2t2_jax.bank.manifest import (
    EMBEDDINGS,
    MANIFEST,
    RECORDS,
    ROUTING,
    STORED,
    Fingerprints,
    Manifest,
    check_file,
    digest,
    read_manifest,
)
from r2t2_jax.bank.records import (
    Joined,
    Records,
    StoredSamples,
    as_stored,
    as_table,
    open_leaves,
    read_correct,
    stored_leaves,
)
from r2t2_jax.bank.reference_bank import ReferenceBank
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import atomic_write, remove, sync


@dataclass(frozen=True)
class BankRows:
    """Rows to write: a table in the bank's schema, and arrays with a leading axis n by the name of their file."""

    records: pa.Table
    arrays: Mapping[str, np.ndarray]


def write_bank(path: Path, manifest: Manifest, batches: Iterable[BankRows]) -> None:
    """Write a bank directory, which appears whole or not at all and takes the place of an earlier bank.

    Args:
        path: the directory.
        manifest: all but the files' checksums.
        batches: `manifest.rows` rows in all; memory does not grow with them.

    Raises:
        R2T2Error: the directory cannot be written, or is there and is no bank.
    """
    if path.exists() and not (path.is_dir() and ((path / MANIFEST).exists() or not any(path.iterdir()))):
        raise R2T2Error(f"{path} is there and is no bank; choose another directory")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda draft: write_files(draft, manifest, batches))
    except OSError as error:
        raise R2T2Error(f"cannot write {path}: {error.strerror}") from error


def write_files(folder: Path, manifest: Manifest, batches: Iterable[BankRows]) -> None:
    """Make a folder and write all files of a bank to it.

    Raises:
        ValueError: the batches have another number of rows than the manifest says.
    """
    folder.mkdir()
    writer: pq.ParquetWriter | None = None
    arrays: dict[str, np.memmap] = {}
    row = 0
    for batch in batches:
        if writer is None:
            writer = pq.ParquetWriter(folder / RECORDS, batch.records.schema, compression="zstd")
            arrays = {name: _create(folder / name, manifest.rows, values) for name, values in batch.arrays.items()}
        last = row + len(batch.records)
        for name, values in batch.arrays.items():
            arrays[name][row:last] = values
        writer.write_table(batch.records)
        row = last
    if writer is None or row != manifest.rows:
        raise ValueError(f"{row} rows came to be written to {folder}, {manifest.rows} were announced")
    writer.close()
    for array in arrays.values():
        array.flush()
    replace(manifest, files={name: digest(folder / name) for name in sorted([RECORDS, *arrays])}).write(folder)


def _create(file: Path, rows: int, values: np.ndarray) -> np.memmap:
    file.parent.mkdir(exist_ok=True)
    return np.lib.format.open_memmap(file, "w+", values.dtype, (rows, *values.shape[1:]))


def install(draft: Path, folder: Path) -> None:
    """Move the files of a bank from a draft into a folder that holds other files too; `bank.json` last."""
    for file in draft.rglob("*"):
        sync(file)
    for entry in sorted(draft.iterdir(), key=lambda entry: entry.name == MANIFEST):
        remove(folder / entry.name)  # of an earlier attempt, which was killed here
        entry.rename(folder / entry.name)
    sync(folder)
    draft.rmdir()


def open_files(path: Path, whole: bool = False) -> tuple[Manifest, np.ndarray, np.ndarray]:
    """The manifest, and embeddings and routing memory-mapped, once every file is what was written.

    Args:
        path: the bank's directory.
        whole: read every byte against its checksum, instead of the quick look of `digests.py`.

    Raises:
        R2T2Error: not a bank, incomplete, damaged, or of another schema version.
    """
    manifest = read_manifest(path)
    for name, expected in manifest.files.items():
        check_file(path / name, expected, whole)
    embeddings = _open(path / EMBEDDINGS, (manifest.rows, manifest.embedding_size))
    return manifest, embeddings, _open(path / ROUTING, (manifest.rows, *manifest.routing_shape))


def _open(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise R2T2Error(f"{file} is damaged ({error}); build the bank again") from error
    if array.shape != shape:
        raise R2T2Error(f"{file} has shape {array.shape}, {MANIFEST} says {shape}: build the bank again")
    return array


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

    def batches() -> Iterator[BankRows]:
        for first in range(0, len(bank), ROWS):
            rows = {name: np.asarray(array[first : first + ROWS]) for name, array in arrays.items()}
            yield BankRows(table.slice(first, ROWS), rows)

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
