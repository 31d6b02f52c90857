"""Writes a bank to a directory and reads it back (docs/bank.md).

Axis letters: N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from r2t2_jax.bank.atlas import ATLAS, Atlas, open_atlas
from r2t2_jax.bank.manifest import (
    EMBEDDINGS,
    MANIFEST,
    RECORDS,
    ROUTING,
    STORED,
    Fingerprints,
    Manifest,
    Source,
    check_file,
    digest,
    read_manifest,
)
from r2t2_jax.bank.records import (
    Records,
    StoredSamples,
    as_stored,
    as_table,
    open_leaves,
    read_correct,
    stored_leaves,
)
from r2t2_jax.contract import Answer, Features
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runs.atomic_io import atomic_write, remove, sync

ROWS_AT_A_TIME = 1 << 16  # rows written at a time


@dataclass(frozen=True)
class BankContents:
    """Everything of a bank that its directory stores; `ReferenceBank` has the meaning of each field.

    `features` and `answers` are `None` in what `read_contents` returns: `stored_samples` maps those on disk.
    """

    routing: Float[np.ndarray, "N L E"]
    embeddings: Float[np.ndarray, "N M"]
    records: Sequence[Mapping[str, Any]]
    correct: Bool[np.ndarray, "N"]
    fingerprints: Fingerprints
    spec: RoutingSpec | None
    sources: tuple[Source, ...]
    metric: str
    features: Features | None = None
    answers: Answer | None = None
    atlas: Atlas | None = None


@dataclass(frozen=True)
class BankRows:
    """Rows to write: a table in the bank's schema, and arrays with a leading axis n by the name of their file."""

    records: pa.Table
    arrays: Mapping[str, np.ndarray]


def write_bank(path: Path, manifest: Manifest, batches: Iterable[BankRows]) -> None:
    """Write a bank directory atomically, replacing an earlier bank.

    Args:
        path: the directory.
        manifest: without the checksums of the files.
        batches: `manifest.rows` rows in total; only one batch is held in memory.

    Raises:
        R2T2Error: the directory cannot be written, or it exists and is not a bank.
    """
    if path.exists() and not (path.is_dir() and ((path / MANIFEST).exists() or not any(path.iterdir()))):
        raise R2T2Error(f"{path} exists and is not a bank; choose another directory")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda draft: write_files(draft, manifest, batches))
    except OSError as error:
        raise R2T2Error(f"cannot write {path}: {error.strerror}") from error


def write_files(folder: Path, manifest: Manifest, batches: Iterable[BankRows]) -> None:
    """Create a folder and write all files of a bank to it.

    Raises:
        ValueError: the number of rows of all batches is not that of the manifest.
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
        raise ValueError(f"{row} rows were written to {folder}; the manifest announces {manifest.rows}")
    writer.close()
    for array in arrays.values():
        array.flush()
    replace(manifest, files={name: digest(folder / name) for name in sorted([RECORDS, *arrays])}).write(folder)


def _create(file: Path, rows: int, values: np.ndarray) -> np.memmap:
    file.parent.mkdir(exist_ok=True)
    return np.lib.format.open_memmap(file, "w+", values.dtype, (rows, *values.shape[1:]))


def install(draft: Path, folder: Path) -> None:
    """Move the files of a bank from a draft into a folder that also holds other files; `bank.json` last."""
    for file in draft.rglob("*"):
        sync(file)
    for entry in sorted(draft.iterdir(), key=lambda entry: entry.name == MANIFEST):
        remove(folder / entry.name)  # of an earlier attempt that was killed here
        entry.rename(folder / entry.name)
    sync(folder)
    draft.rmdir()


def open_files(path: Path, whole: bool = False) -> tuple[Manifest, np.ndarray, np.ndarray]:
    """The manifest, and the embeddings and routing memory-mapped, after checking every file.

    Args:
        path: the bank's directory.
        whole: check every byte against its checksum, instead of the quick digest of `manifest.py`.

    Raises:
        R2T2Error: the directory is not a bank, or incomplete, damaged, or of another schema version.
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


def save_contents(path: Path, contents: BankContents) -> None:
    """Write a bank to a directory, with features and answers if it has them.

    Raises:
        R2T2Error: as `write_bank`.
    """
    stored, leaves = {}, {}
    if contents.features is not None:
        trees = dict(zip(STORED, (contents.features, contents.answers), strict=True))
        stored = {name: stored_leaves(name, tree) for name, tree in trees.items()}
        leaves = {leaf.file: a for name in stored for leaf, a in zip(stored[name], as_stored(trees[name]), strict=True)}
    rows, layers, experts = contents.routing.shape
    manifest = Manifest(
        fingerprints=contents.fingerprints,
        rows=rows,
        correct=int(contents.correct.sum()),
        embedding_size=contents.embeddings.shape[1],
        routing_shape=(layers, experts),
        spec=contents.spec,
        sources=contents.sources,
        metric=contents.metric,
        stored=stored,
    )
    table = as_table(contents.records, contents.correct)
    arrays = {EMBEDDINGS: contents.embeddings, ROUTING: contents.routing} | leaves

    def batches() -> Iterator[BankRows]:
        for first in range(0, rows, ROWS_AT_A_TIME):
            part = slice(first, first + ROWS_AT_A_TIME)
            yield BankRows(
                table.slice(first, ROWS_AT_A_TIME), {name: np.asarray(array[part]) for name, array in arrays.items()}
            )

    write_bank(path, manifest, batches())


def read_contents(path: Path, expected: Fingerprints) -> BankContents:
    """The contents of a bank's directory, arrays memory-mapped.

    Raises:
        R2T2Error: as `open_files`, or a fingerprint is not the expected one.
    """
    manifest, embeddings, routing = open_files(path)
    manifest.fingerprints.check(str(path), expected)
    all_correct = manifest.correct == manifest.rows
    return BankContents(
        routing=routing,
        embeddings=embeddings,
        records=Records(path / RECORDS),
        correct=np.ones(manifest.rows, bool) if all_correct else read_correct(path / RECORDS),
        fingerprints=manifest.fingerprints,
        spec=manifest.spec,
        sources=manifest.sources,
        metric=manifest.metric,
        atlas=open_atlas(path / ATLAS) if (path / ATLAS).is_dir() else None,
    )


def stored_samples(folder: Path, features: Features, answers: Answer) -> StoredSamples | None:
    """The features and answers stored in a bank's directory, memory-mapped; `None` if it stores none.

    Args:
        folder: the bank's directory.
        features, answers: trees with the structure of the model's features and answers.

    Raises:
        R2T2Error: the directory stores features of another model.
    """
    stored = read_manifest(folder).stored
    if not stored:
        return None
    trees = zip(STORED, (features, answers), strict=True)
    return StoredSamples(*(open_leaves(folder, stored[name], like) for name, like in trees))
