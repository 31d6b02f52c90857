"""Writes a bank to a directory and reads it back (docs/bank.md).

Axis letters: N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from r2t2_jax.bank.atlas import ATLAS, Atlas, open_atlas
from r2t2_jax.bank.manifest import (
    AGAIN,
    AS_RECORDED,
    EMBEDDINGS,
    MANIFEST,
    RECORDS,
    ROUTING,
    STORED,
    WHOLE,
    Fingerprints,
    Manifest,
    Source,
    check_file,
    digest,
    full_digest,
    quick_digest,
    read_manifest,
)
from r2t2_jax.bank.records import SCHEMA as RECORD_SCHEMA
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
from r2t2_jax.retrieval import INDEX, is_own
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runs.atomic_io import atomic_folder, check_only_own, exchange, remove, sync
from r2t2_jax.runs.folder import RUN
from r2t2_jax.runtime.checks import check_embeddings, check_weights
from r2t2_jax.runtime.typed_files import FLOATING, open_array, read_parquet, read_parquet_schema

ROWS_AT_A_TIME = 1 << 16  # rows written, or checked, at a time
CHECKED_ROWS = 1 << 10  # of a large bank, when it is opened
OWN_FILES = (MANIFEST, RECORDS, EMBEDDINGS, ROUTING)
OWN_ARRAY = re.compile(rf"({'|'.join(STORED)})/\d+\.npy")


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
        R2T2Error: the directory cannot be written, or `check_replaceable` refuses it.
    """
    check_replaceable(path)
    try:
        atomic_folder(path, lambda draft: write_files(draft, manifest, batches))
    except OSError as error:
        raise R2T2Error(f"cannot write {path}: {error.strerror}") from error


def check_replaceable(path: Path) -> None:
    """Check, before any work is done, that a bank may be written to a directory.

    Raises:
        R2T2Error: the directory holds a bank that `r2t2 bank build` made, an atlas, or anything that is not a bank.
    """
    if (path / RUN).exists():
        raise R2T2Error(f"{path} is the folder of a run or of a bank that `r2t2 bank build` made; choose another one")
    if (path / ATLAS).exists():
        raise R2T2Error(f"{path} holds a bank with a loss atlas, which would be lost; choose another directory")
    if path.is_dir() and not (path / MANIFEST).exists() and any(path.iterdir()):
        raise R2T2Error(f"{path} exists and is not a bank; choose another directory")
    check_only_own(path, _is_own, "a bank")


def _is_own(name: str) -> bool:
    """Whether a file of this name may be replaced with a bank."""
    folder, _, file = name.rpartition("/")
    return name in (*OWN_FILES, *STORED, INDEX) or bool(OWN_ARRAY.fullmatch(name)) or (folder == INDEX and is_own(file))


def write_files(folder: Path, manifest: Manifest, batches: Iterable[BankRows]) -> None:
    """Write all files of a bank to a folder, which is created if it does not exist.

    Raises:
        ValueError: the number of rows of all batches is not that of the manifest.
    """
    folder.mkdir(exist_ok=True)
    row = 0
    with ExitStack() as files:
        writer: pq.ParquetWriter | None = None
        arrays: dict[str, IO[bytes]] = {}
        for batch in batches:
            if writer is None:
                writer = files.enter_context(
                    pq.ParquetWriter(folder / RECORDS, batch.records.schema, compression="zstd")
                )
                arrays = {
                    name: files.enter_context(_create(folder / name, manifest.rows, values))
                    for name, values in batch.arrays.items()
                }
            for name, values in batch.arrays.items():
                arrays[name].write(np.ascontiguousarray(values).tobytes())
            writer.write_table(batch.records)
            row += len(batch.records)
    if row != manifest.rows:
        raise ValueError(f"{row} rows were written to {folder}; the manifest announces {manifest.rows}")
    replace(manifest, files={name: digest(folder / name) for name in sorted([RECORDS, *arrays])}).write(folder)


def _create(file: Path, rows: int, values: np.ndarray) -> IO[bytes]:
    """A `.npy` file for `rows` rows like `values`, with its header. Plain writes fail on a full disk; a sparse memory
    map would end the process.
    """
    file.parent.mkdir(exist_ok=True)
    stream = file.open("wb")
    shape = (rows, *values.shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream


def install(draft: Path, folder: Path) -> None:
    """Move the files of a bank from a draft into a folder that also holds other files; `bank.json` last."""
    for file in draft.rglob("*"):
        sync(file)
    for entry in sorted(draft.iterdir(), key=lambda entry: entry.name == MANIFEST):
        target = folder / entry.name
        if target.is_dir():  # of an earlier attempt that was killed here, with the same content
            exchange(entry, target)
        else:
            os.replace(entry, target)
    sync(folder)
    remove(draft)


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
    shapes = {EMBEDDINGS: (manifest.rows, manifest.embedding_size), ROUTING: (manifest.rows, *manifest.routing_shape)}
    arrays = [open_array(path / name, FLOATING, shape, AGAIN, MANIFEST) for name, shape in shapes.items()]
    _, rows = read_parquet_schema(path / RECORDS, AGAIN, RECORD_SCHEMA)
    if rows != manifest.rows:
        raise R2T2Error(f"{path / RECORDS} has {rows} rows, {MANIFEST} says {manifest.rows}; {AGAIN}")
    for selection in _checked_rows(manifest, arrays, whole):
        check_embeddings(str(path / EMBEDDINGS), np.asarray(arrays[0][selection]))
        check_weights(
            str(path / ROUTING), np.asarray(arrays[1][selection]), manifest.spec, manifest.metric == AS_RECORDED
        )
    return manifest, arrays[0], arrays[1]


def _checked_rows(manifest: Manifest, arrays: Sequence[np.ndarray], whole: bool) -> Iterator[slice]:
    """The rows whose values are checked: all of a small bank, or some spread evenly over a large one."""
    if whole or max(array.nbytes for array in arrays) <= WHOLE:
        yield from (slice(first, first + ROWS_AT_A_TIME) for first in range(0, manifest.rows, ROWS_AT_A_TIME))
    else:
        yield slice(0, manifest.rows, max(1, manifest.rows // CHECKED_ROWS))


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
    correct = np.ones(manifest.rows, bool) if all_correct else read_correct(path / RECORDS)
    if correct.sum() != manifest.correct:
        raise R2T2Error(
            f"{path / RECORDS} has {correct.sum()} correct rows, {MANIFEST} says {manifest.correct}; {AGAIN}"
        )
    return BankContents(
        routing=routing,
        embeddings=embeddings,
        records=Records(path / RECORDS),
        correct=correct,
        fingerprints=manifest.fingerprints,
        spec=manifest.spec,
        sources=manifest.sources,
        metric=manifest.metric,
        atlas=_open_own_atlas(path) if (path / ATLAS).is_dir() else None,
    )


def _open_own_atlas(path: Path) -> Atlas:
    """The atlas in a bank's directory, with the rows in the order of the bank.

    Raises:
        R2T2Error: as `open_atlas`, or the atlas was built for other references.
    """
    atlas = open_atlas(path / ATLAS)
    if atlas.bank:
        if atlas.bank != manifest_digest(path):
            raise R2T2Error(f"{path / ATLAS} was built for another bank; build it again with `r2t2 bank atlas {path}`")
        return atlas
    try:
        return atlas.of(read_parquet(path / RECORDS, AGAIN, columns=["id"])["id"].to_pylist())
    except R2T2Error as error:
        raise R2T2Error(f"{path}: {error}") from error


def manifest_digest(path: Path) -> str:
    """SHA-256 of `bank.json`, which has the checksums of all files of the bank."""
    return full_digest(path / MANIFEST)


def folder_digest(path: Path, atlas: bool = True) -> str:
    """A hash of a bank's directory: of its manifest, its atlas (unless it is left out) and its index."""
    files = [path / MANIFEST, *([path / ATLAS / "atlas.json"] if atlas else []), *sorted((path / INDEX).glob("*"))]
    sums = [f"{quick_digest(file)} {file.name}" for file in files if file.is_file()]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()[:16]


def stored_samples(folder: Path, features: Features, answers: Answer) -> StoredSamples | None:
    """The features and answers stored in a bank's directory, memory-mapped; `None` if it stores none.

    Args:
        folder: the bank's directory.
        features, answers: trees with the structure of the model's features and answers.

    Raises:
        R2T2Error: the directory stores features of another model.
    """
    manifest = read_manifest(folder)
    if not manifest.stored:
        return None
    trees = zip(STORED, (features, answers), strict=True)
    stored = {name: manifest.stored.get(name, ()) for name in STORED}
    return StoredSamples(*(open_leaves(folder, stored[name], like, manifest.rows) for name, like in trees))
