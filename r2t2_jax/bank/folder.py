"""The directory of a bank: written as a stream of batches beside its place, moved there when complete; opened mapped.

Axis letters: n rows of a batch, N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from r2t2_jax.bank.digests import FileDigest, check_file, digest
from r2t2_jax.bank.manifest import EMBEDDINGS, MANIFEST, RECORDS, ROUTING, Manifest, read_manifest
from r2t2_jax.bank.samples import write_arrays
from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class Batch:
    """Rows to be written: a table in the bank's schema and the two arrays."""

    records: pa.Table
    embeddings: Float[np.ndarray, "n M"]
    routing: Float[np.ndarray, "n L E"]


def write_bank(
    path: Path, manifest: Manifest, batches: Iterable[Batch], samples: tuple[Any, Any] | None = None
) -> None:
    """Write a bank; memory does not grow with it. `path` appears whole or not at all, and replaces an earlier bank.

    Args:
        path: the bank's directory.
        manifest: everything but the files and stored arrays.
        batches: `manifest.rows` rows in all.
        samples: features and answers to store, with a leading axis N on every leaf.

    Raises:
        R2T2Error: the directory cannot be written or holds something else, or the batches have another number of rows.
    """
    with publish(path) as draft:
        rows = _write_rows(draft, manifest, batches)
        if rows != manifest.rows:
            raise R2T2Error(f"{path}: {rows:,} rows came to be written, {manifest.rows:,} were announced")
        arrays = {}
        if samples is not None:
            arrays = {name: write_arrays(draft, name, tree) for name, tree in zip(STORED, samples, strict=True)}
        names = sorted(str(file.relative_to(draft)) for file in draft.rglob("*") if file.is_file())
        files: dict[str, FileDigest] = {name: digest(draft / name) for name in names}
        replace(manifest, files=files, arrays=arrays).write(draft)


STORED = ("features", "answers")


def _write_rows(draft: Path, manifest: Manifest, batches: Iterable[Batch]) -> int:
    n, m = manifest.rows, manifest.embedding_size
    embeddings = np.lib.format.open_memmap(draft / EMBEDDINGS, "w+", np.float32, (n, m))
    routing = np.lib.format.open_memmap(draft / ROUTING, "w+", np.float32, (n, *manifest.routing_shape))
    writer, row = None, 0
    try:
        for batch in batches:
            last = row + len(batch.embeddings)
            if last > n:
                return last
            embeddings[row:last], routing[row:last] = batch.embeddings, batch.routing
            writer = writer or pq.ParquetWriter(draft / RECORDS, batch.records.schema, compression="zstd")
            writer.write_table(batch.records)
            row = last
    finally:
        if writer is not None:
            writer.close()
    embeddings.flush()
    routing.flush()
    return row


def open_bank(path: Path, whole: bool = False) -> tuple[Manifest, np.ndarray, np.ndarray]:
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
    arrays = []
    for name, shape in (
        (EMBEDDINGS, (manifest.rows, manifest.embedding_size)),
        (ROUTING, (manifest.rows, *manifest.routing_shape)),
    ):
        array = np.load(path / name, mmap_mode="r")
        if array.shape != shape:
            raise R2T2Error(f"{path / name} has shape {array.shape}, {MANIFEST} says {shape}: build the bank again")
        arrays.append(array)
    return manifest, arrays[0], arrays[1]


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """A draft directory beside `path` that takes its place, durable, when the block ends well.

    Raises:
        R2T2Error: `path` cannot be written, or is there and is no bank.
    """
    if path.exists() and not (path.is_dir() and ((path / MANIFEST).exists() or not any(path.iterdir()))):
        raise R2T2Error(f"{path} is there and is no bank; choose another directory")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise R2T2Error(f"cannot write {path}: {error.strerror}") from error
    try:
        draft.chmod(0o755)  # mkdtemp keeps it private
        yield draft
        for file in (*draft.rglob("*"), draft):
            _sync(file)
        earlier = draft.with_name(f"{draft.name}-earlier")
        if path.exists():
            path.rename(earlier)
        draft.rename(path)
        _sync(path.parent)
        shutil.rmtree(earlier, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
