"""Model directories on disk: written so that one that exists is whole, read straight into the dtype that is asked for.

    model.json     port, config, source, sha256 of every input file, dtype, report, and the crc32 of every piece
    checkpoint/    Orbax, in the source's dtype
    tokenizer/     the source's files, verbatim

A parameter is stored in pieces along its first axis, a stacked one layer by layer, so that writing holds little more
than one piece in memory, whatever the size of the largest parameter.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ports.common.checkpoints import Checkpoint
from ports.common.digests import crc32_of, described_by, digest_of, name_in, sha256_of
from ports.common.mapping import Leaf
from ports.common.orbax_errors import errors_told_once
from r2t2_jax.errors import R2T2Error

SCHEMA = 1
DESCRIPTION, CHECKPOINT, TOKENIZER = "model.json", "checkpoint", "tokenizer"
PIECE = 128 * 2**20
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
    _check_destination(destination, size)
    read = sum(file.stat().st_size for file in inputs)
    bar = tqdm(total=read + size, unit="B", unit_scale=True, disable=not progress, desc=destination.name)
    with bar, errors_told_once(), _appearing(destination) as folder:
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


def _check_destination(destination: Path, size: int) -> None:
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise R2T2Error(f"{destination} exists already; remove it or choose another name")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(destination.parent).free
    except OSError as error:
        raise R2T2Error(f"cannot write {destination} ({error.strerror})") from error
    if free < size:
        raise R2T2Error(f"{destination} needs {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on its disk")


@contextmanager
def _appearing(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` that becomes it if all goes well, and vanishes otherwise.

    Its name is fixed, so that what a killed conversion left is found and cleared away by the next one; a lock that the
    system lets go with the process tells the two cases apart: killed, or still at work.
    """
    folder = destination.with_name(f".{destination.name}.converting")
    try:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise R2T2Error(f"cannot write {destination} ({error.strerror})") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise R2T2Error(f"another conversion is writing {destination} at this moment") from error
        try:
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield folder
            _make_durable(folder)
            os.rename(folder, destination)
            _sync(destination.parent)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, Exception) and not isinstance(error, R2T2Error):
                _explain(error, destination)
            raise
    finally:
        os.close(handle)


def _explain(error: Exception, destination: Path) -> None:
    """A failed write in one line; TensorStore tells of the system's errors in words alone. Other errors are ours."""
    words = str(error)
    if isinstance(error, OSError):
        raise R2T2Error(f"cannot write {destination} ({error.strerror or words})") from error
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
        if os.strerror(code) in words:
            raise R2T2Error(f"cannot write {destination} ({os.strerror(code)})") from error


def _make_durable(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            _sync(Path(place) / name)
        _sync(Path(place))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_checkpoint(folder: Path, parameters: Stored, checkpoint: Checkpoint, bar: tqdm[Any]) -> dict[str, list[int]]:
    """Write piece by piece; the crc32 of every parameter's pieces. Orbax does not notice a flipped bit by itself."""
    from orbax.checkpoint import v1 as ocp

    sums: dict[str, list[int]] = {path: [] for path in parameters}
    context = ocp.Context()
    context.array.saving.use_compression = False  # trained weights do not shrink
    group: dict[str, dict[str, np.ndarray]] = {}
    held = 0
    with context:
        for path, (leaf, shape) in parameters.items():
            for piece in _pieces(leaf, checkpoint):
                if held and held + piece.nbytes > PIECE:
                    ocp.partial.save(folder, group)
                    bar.update(held)
                    group, held = {}, 0
                piece = np.ascontiguousarray(piece, shape.dtype)
                group.setdefault(path, {})[str(len(sums[path]))] = piece
                sums[path].append(crc32_of(piece))
                held += piece.nbytes
        ocp.partial.save(folder, group)
        bar.update(held)
        ocp.partial.finalize(folder)
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
