"""The directory of a bank: written as a stream of batches, complete once `bank.json` is there; opened memory-mapped.

Axis letters: n rows of a batch, N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from r2t2_jax.bank.digests import check_file, digest
from r2t2_jax.bank.manifest import EMBEDDINGS, MANIFEST, RECORDS, ROUTING, Manifest, read_manifest
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.files import publish, remove, sync


@dataclass(frozen=True)
class Batch:
    """Rows to be written: a table in the bank's schema, and arrays with a leading axis n by the name of their file."""

    records: pa.Table
    arrays: Mapping[str, np.ndarray]


def write_bank(path: Path, manifest: Manifest, batches: Iterable[Batch]) -> None:
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
        publish(path, lambda draft: write_files(draft, manifest, batches))
    except OSError as error:
        raise R2T2Error(f"cannot write {path}: {error.strerror}") from error


def write_files(folder: Path, manifest: Manifest, batches: Iterable[Batch]) -> None:
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
