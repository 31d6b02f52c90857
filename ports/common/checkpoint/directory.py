"""Model directories on disk: written so that one that exists is whole, read straight into the dtype that is asked for.

    model.json     port, config, source, sha256 of every input file, dtype, report, and the crc32 of every piece
    checkpoint/    Orbax, in the source's dtype
    tokenizer/     the source's files, verbatim

A parameter is stored in pieces along its first axis, a stacked one layer by layer, so that writing holds little more
than one piece in memory, whatever the size of the largest parameter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ports.common.appearing import appearing
from ports.common.checkpoint.formats import PIECE, Checkpoint, CheckpointWriter
from ports.common.checkpoint.mapping import Leaf
from r2t2_jax.errors import R2T2Error

CHUNK = 2**22


def sha256_of(file: Path, seen: Callable[[int], object] = lambda size: None) -> str:
    """Hexadecimal sha256 of a file; `seen` hears of the bytes as they are read."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(CHUNK):
            digest.update(part)
            seen(len(part))
    return digest.hexdigest()


def crc32_of(array: np.ndarray) -> int:
    """Checksum of a contiguous array, against damage, not malice; Orbax has none for uncompressed data."""
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


def name_in(folder: Path, file: Path) -> str:
    """A file's name below `folder`, the same on every system."""
    return file.relative_to(folder).as_posix()


def described_by(folder: Path) -> tuple[Path, ...]:
    """What a checkpoint's folder says of itself, where it does."""
    return tuple(file for file in (folder / "config.json",) if file.is_file())


def digest_of(sums: Mapping[str, str]) -> str:
    """One sha256 over the sha256 of every input file by name: the identity of config, weights and tokenizer."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@contextmanager
def errors_told_once() -> Iterator[None]:
    """Keep to the error that is raised.

    Besides it, Orbax logs a traceback from each of its threads, and the asyncio tasks that it leaves behind complain
    that their loop is closed or that nobody asked for their result. The last of them do so when the error was raised
    long since, so after an error the hook that drops these complaints, and nothing else, stays.
    """
    loggers = {name: logging.getLogger(name) for name in ("absl", "asyncio")}
    levels, hook = {name: logger.level for name, logger in loggers.items()}, sys.unraisablehook
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda told: None if "Event loop is closed" in str(told.exc_value) else hook(told)
    try:
        yield
        sys.unraisablehook = hook
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])


SCHEMA = 1
DESCRIPTION, CHECKPOINT, TOKENIZER = "model.json", "checkpoint", "tokenizer"
Stored = Mapping[str, tuple[Leaf, jax.ShapeDtypeStruct]]


def write_model_directory(
    destination: Path,
    *,
    described: Mapping[str, Any],
    parameters: Stored,
    checkpoint: Checkpoint,
    tied: Sequence[tuple[str, str]] = (),
    report: Mapping[str, Any],
    tokenizer: Sequence[Path] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Write a model directory under a temporary name beside `destination`, make it durable, then rename it.

    Args:
        destination: must not exist, or be an empty folder.
        described: what `model.json` begins with: port, config, source.
        parameters: how each is made, and its shape and dtype.
        checkpoint: where the tensors are read from.
        tied: pairs of names whose tensors must be equal.
        report: how mapping and checkpoint met.
        tokenizer: files to copy.
        progress: show a bar on standard error.

    Returns:
        The content of `model.json`.

    Raises:
        R2T2Error: the destination exists or cannot be written, or tied tensors differ. Whatever goes wrong, an
            interruption included, nothing is left behind.
    """
    size = sum(_bytes(shape) for _, shape in parameters.values())
    inputs = sorted({*checkpoint.files, *tokenizer, *described_by(checkpoint.folder)})
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise R2T2Error(f"{destination} exists already; remove it or choose another name")
    read = sum(file.stat().st_size for file in inputs)
    bar = tqdm(total=read + size, unit="B", unit_scale=True, disable=not progress, desc=destination.name)
    with bar, errors_told_once(), appearing(destination) as folder:
        _check_space(destination, size)
        for kept, dropped in tied:
            if not np.array_equal(checkpoint[kept].read(), checkpoint[dropped].read()):
                raise R2T2Error(f"{dropped} should equal {kept}, to which it is tied, and does not")
        sums = {name_in(checkpoint.folder, file): sha256_of(file, bar.update) for file in inputs}
        pieces = _write_checkpoint(folder / CHECKPOINT, parameters, checkpoint, bar)
        (folder / TOKENIZER).mkdir()
        for file in tokenizer:
            shutil.copyfile(file, folder / TOKENIZER / file.name)
        model = {
            "schema": SCHEMA,
            **described,
            "dtype": sorted({str(shape.dtype) for _, shape in parameters.values()}),
            "digest": digest_of(sums),
            "inputs": sums,
            "tokenizer": {file.name: sums[file.name] for file in tokenizer},
            "report": dict(report),
            "parameters": {
                path: {"shape": list(shape.shape), "dtype": str(shape.dtype), "pieces": pieces[path]}
                for path, (_, shape) in parameters.items()
            },
            "checkpoint": _sizes(folder / CHECKPOINT),
        }
        (folder / DESCRIPTION).write_text(json.dumps(model, indent=1) + "\n", encoding="utf-8")
    return model


def _bytes(shape: jax.ShapeDtypeStruct) -> int:
    return int(shape.size) * shape.dtype.itemsize


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _check_space(destination: Path, size: int) -> None:
    free = shutil.disk_usage(destination.parent).free
    if free < size:
        raise R2T2Error(f"{destination} needs {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on its disk")


def _write_checkpoint(folder: Path, parameters: Stored, checkpoint: Checkpoint, bar: tqdm[Any]) -> dict[str, list[int]]:
    """Write piece by piece; the crc32 of every parameter's pieces."""
    sums: dict[str, list[int]] = {path: [] for path in parameters}
    writer = CheckpointWriter(folder, bar.update)
    for path, (leaf, shape) in parameters.items():
        for view in _pieces(leaf, checkpoint):
            piece = np.ascontiguousarray(view, shape.dtype)
            writer.put(path, len(sums[path]), piece)
            sums[path].append(crc32_of(piece))
    writer.finish()
    return sums


def _pieces(leaf: Leaf, checkpoint: Checkpoint) -> Iterator[np.ndarray]:
    """Slices of a parameter along its first axis: a layer of a stack, or as many rows as a piece holds."""
    for name in leaf.names:
        tensor = leaf.change(checkpoint[name].read())
        if leaf.stacked:
            tensor = tensor[None]
        elif not tensor.ndim:
            tensor = tensor.reshape(1)
        rows = max(1, PIECE // max(1, tensor.nbytes // max(1, len(tensor))))
        for start in range(0, len(tensor), rows):
            yield tensor[start : start + rows]
