"""Model directories on disk: what they contain, and how one is written.

    model.json     port, config, source, sha256 of every input file, dtype, report, and the crc32 of every piece
    checkpoint/    Orbax, in the dtype of the source
    tokenizer/     copies of the source's tokenizer files

A parameter is stored in pieces along its first axis, a stacked one layer by layer and a large layer in pieces along its
own first axis, so that writing needs little more host memory than the largest tensor and a few pieces. The directory is
published with one rename: one that exists is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ports.common.checkpoint.formats import Checkpoint
from ports.common.checkpoint.mapping import Leaf
from ports.common.checkpoint.orbax_writer import PIECE, CheckpointWriter, plain_path, single_error_report
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import DRAFT, OWN, atomic_folder, remove, remove_if_abandoned
from r2t2_jax.runtime.progress import ProgressBar

SCHEMA = 2  # 2: parameters have upstream's names
DESCRIPTION, CHECKPOINT, TOKENIZER = "model.json", "checkpoint", "tokenizer"
CHUNK = 2**22  # bytes of a file that are hashed at a time
QUIET_CHECKS = 15  # how often a removed draft must stay away
Stored = Mapping[str, tuple[Leaf, jax.ShapeDtypeStruct]]


def sha256_of(file: Path, on_bytes: Callable[[int], object] = lambda size: None) -> str:
    """Hexadecimal sha256 of a file; `on_bytes` is called with the number of bytes of every chunk read."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(CHUNK):
            digest.update(part)
            on_bytes(len(part))
    return digest.hexdigest()


def crc32_of(array: np.ndarray) -> int:
    """Checksum of a contiguous array, against damage, not malice; Orbax has none for uncompressed data."""
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


def name_in(folder: Path, file: Path) -> str:
    """Path of a file relative to `folder`, with forward slashes on every system."""
    return file.relative_to(folder).as_posix()


def described_by(folder: Path) -> tuple[Path, ...]:
    """The files that describe a checkpoint: its `config.json`, if there is one."""
    return tuple(file for file in (folder / "config.json",) if file.is_file())


def input_files(checkpoint: Checkpoint, tokenizer: Mapping[str, Path]) -> dict[str, Path]:
    """The files that make up a model, by name in its folder: weights, `config.json` and the tokenizer's files."""
    inside = {*checkpoint.files, *described_by(checkpoint.folder)}
    files = {name_in(checkpoint.folder, file): file for file in inside} | dict(tokenizer)
    return dict(sorted(files.items()))


def digest_of(sums: Mapping[str, str]) -> str:
    """One sha256 over the sha256 of every input file by name: the identity of config, weights and tokenizer."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_destination(destination: Path) -> None:
    """Refuse a destination that exists; an empty folder is allowed.

    Raises:
        R2T2Error: it exists.
    """
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise R2T2Error(f"{destination} exists already; remove it or choose another name")


def write_model_directory(
    destination: Path,
    *,
    described: Mapping[str, Any],
    parameters: Stored,
    checkpoint: Checkpoint,
    tied: Sequence[tuple[str, str]] = (),
    report: Mapping[str, Any],
    tokenizer: Mapping[str, Path] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a model directory under a temporary name next to `destination`, make it durable, then rename it.

    Args:
        destination: must not exist, or be an empty folder.
        described: the first fields of `model.json`: port, config, source.
        parameters: how each is made, and its shape and dtype.
        checkpoint: where the tensors are read from.
        tied: pairs of names whose tensors must be equal.
        report: how mapping and checkpoint met.
        tokenizer: files to copy, by name.
        progress: show a bar on standard error.

    Returns:
        The content of `model.json`.

    Raises:
        R2T2Error: the destination exists, is being written by another process or cannot be written, or tied tensors
            differ. After any failure, an interruption included, nothing is left behind.
    """
    size = sum(_bytes(shape) for _, shape in parameters.values())
    tokenizer = tokenizer or {}
    inputs = input_files(checkpoint, tokenizer)
    check_destination(destination)
    content: dict[str, Any] = {}
    bar = ProgressBar(
        total=sum(file.stat().st_size for file in inputs.values()) + size,
        unit="B", unit_scale=True, disable=not progress, desc=destination.name,
    )  # fmt: skip

    def write(folder: Path) -> None:
        """Write the model's files into a draft of the destination."""
        _check_space(destination, size)
        for kept, dropped in tied:
            if not np.array_equal(checkpoint[kept].read(), checkpoint[dropped].read()):
                raise R2T2Error(f"{dropped} should equal {kept}, to which it is tied, and does not")
        sums = {name: sha256_of(file, bar.update) for name, file in inputs.items()}
        with plain_path(folder) as path:
            pieces = _write_checkpoint(path / CHECKPOINT, parameters, checkpoint, bar)
        (folder / TOKENIZER).mkdir()
        for name, file in tokenizer.items():
            shutil.copyfile(file, folder / TOKENIZER / name)
        content.update(
            schema=SCHEMA,
            **described,
            dtype=sorted({str(shape.dtype) for _, shape in parameters.values()}),
            digest=digest_of(sums),
            inputs=sums,
            tokenizer={name: sums[name] for name in tokenizer},
            report=dict(report),
            parameters=_described(parameters, pieces),
            checkpoint=_sizes(folder / CHECKPOINT),
        )
        (folder / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")

    with bar, single_error_report():
        _publish(Path(os.path.abspath(destination)), write)
    return content


def _publish(destination: Path, write: Callable[[Path], None]) -> None:
    """`atomic_folder` by one process at a time."""

    def write_or_remove(draft: Path) -> None:
        try:
            write(draft)
        except BaseException:
            _remove_until_quiet(draft)
            raise

    try:
        _remove_abandoned_drafts(destination)
        atomic_folder(destination, write_or_remove)
    except Exception as error:
        if not isinstance(error, R2T2Error):
            _raise_write_error(error, destination)
        raise


def _remove_abandoned_drafts(destination: Path) -> None:
    """Remove drafts of killed conversions. The system releases a process's lock with the process."""
    name = re.compile(rf"({re.escape(OWN)}[0-9a-f]{{8}}|{re.escape(DRAFT)}\d+)-{re.escape(destination.name)}")
    drafts = destination.parent.iterdir() if destination.parent.is_dir() else ()
    for draft in filter(lambda path: name.fullmatch(path.name), drafts):
        if not remove_if_abandoned(draft):
            raise R2T2Error(f"another conversion is writing {destination} at this moment")


def _remove_until_quiet(folder: Path) -> None:
    """Remove a folder until it stays away: writes still in progress after a failure may create it again."""
    quiet = 0
    while quiet < QUIET_CHECKS:
        quiet = 0 if folder.exists() else quiet + 1
        remove(folder)
        time.sleep(0.02)


def _raise_write_error(error: Exception, destination: Path) -> None:
    """Raise an R2T2Error for a failed write; TensorStore reports system errors only by their text."""
    text = str(error)
    if isinstance(error, OSError):
        raise R2T2Error(f"cannot write {destination} ({error.strerror or text})") from error
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
        if os.strerror(code) in text:
            raise R2T2Error(f"cannot write {destination} ({os.strerror(code)})") from error


def _bytes(shape: jax.ShapeDtypeStruct) -> int:
    return int(shape.size) * shape.dtype.itemsize


def _described(parameters: Stored, pieces: Mapping[str, list[int]]) -> dict[str, dict[str, Any]]:
    return {
        path: {"shape": list(shape.shape), "dtype": str(shape.dtype), "pieces": pieces[path]}
        for path, (_, shape) in parameters.items()
    }


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _check_space(destination: Path, size: int) -> None:
    free = shutil.disk_usage(Path(os.path.abspath(destination)).parent).free
    if free < size:
        raise R2T2Error(f"{destination} needs {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on its disk")


def _write_checkpoint(
    folder: Path, parameters: Stored, checkpoint: Checkpoint, bar: ProgressBar
) -> dict[str, list[int]]:
    """Write the parameters piece by piece; returns the crc32 of every parameter's pieces."""
    sums: dict[str, list[int]] = {path: [] for path in parameters}
    writer = CheckpointWriter(folder, bar.update)
    for path, (leaf, shape) in parameters.items():
        for view in _pieces(leaf, checkpoint):
            piece = np.ascontiguousarray(view, shape.dtype)
            writer.put(path, len(sums[path]), piece)
            sums[path].append(crc32_of(piece))
            del view, piece  # before the next tensor is read
    writer.finish()
    return sums


def _pieces(leaf: Leaf, checkpoint: Checkpoint) -> Iterator[np.ndarray]:
    """Slices of a parameter: a layer of a stack, or as many rows of it or of the parameter as fit into a piece.

    Joined along their first axis they have the order of the parameter's entries.
    """
    for names in leaf.entries():
        tensor = leaf.entry(checkpoint.weights(name) for name in names)
        if leaf.stacked and tensor.nbytes <= PIECE:
            tensor = tensor[None]
        elif not tensor.ndim:
            tensor = tensor.reshape(1)
        rows = max(1, PIECE // max(1, tensor.nbytes // max(1, len(tensor))))
        for start in range(0, len(tensor), rows):
            yield tensor[start : start + rows]
        del tensor
