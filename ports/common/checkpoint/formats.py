"""PyTorch checkpoints on disk, read tensor by tensor: safetensors or `.bin`, in one file or in indexed shards.

Opening reads headers only. A tensor of a safetensors file is a memory map in the file's own dtype (bfloat16 included),
so that slicing and transposing it reads nothing; a `.bin` is opened with torch, weights only, memory-mapped too.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from r2t2_jax.errors import R2T2Error

FORMATS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
DTYPES = {
    "F64": np.dtype("f8"), "F32": np.dtype("f4"), "F16": np.dtype("f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("i8"), "I32": np.dtype("i4"), "I16": np.dtype("i2"), "I8": np.dtype("i1"),
    "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
REOPEN_AFTER = 512 * 2**20


@dataclass(frozen=True)
class Entry:
    """One tensor on disk: `read()` maps it."""

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Checkpoint(Mapping[str, Entry]):
    """Tensors by name. `files` are all that belongs to it, indices included; `folder` is what was opened."""

    folder: Path
    entries: Mapping[str, Entry]
    files: tuple[Path, ...]

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def open_checkpoint(folder: Path, folders: Sequence[str] = (".",)) -> Checkpoint:
    """Open the weights in `folder`, or in several folders below it.

    Raises:
        R2T2Error: no weights, a bad index, a missing, truncated or unreadable file, or a name in two files.
    """
    entries: dict[str, Entry] = {}
    files: list[Path] = []
    problems: list[str] = []
    for place in folders:
        shards, index = _shards(folder / place)
        files += [*shards, *index]
        for shard, listed in shards.items():
            try:
                found = (_open_safetensors if shard.suffix == ".safetensors" else _open_bin)(shard)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                problems.append(str(error) if isinstance(error, R2T2Error) else f"{shard} cannot be read ({error})")
                continue
            problems += [f"{shard} has no tensor {name}, its index says it has" for name in listed - set(found)]
            problems += [f"{name} is both in {entries[name].file} and in {shard}" for name in found if name in entries]
            entries |= found
    if problems:
        raise R2T2Error(f"damaged checkpoint ({len(problems)} problems): {'; '.join(problems)}")
    return Checkpoint(folder, entries, tuple(files))


def _shards(folder: Path) -> tuple[dict[Path, set[str]], list[Path]]:
    """The files with weights, each with the names that the index expects in it, and the index."""
    for index_name, single in FORMATS:
        index = folder / index_name
        if index.is_file():
            return _read_index(index), [index]
        if (folder / single).is_file():
            return {folder / single: set()}, []
    known = ", ".join(name for names in FORMATS for name in names)
    raise R2T2Error(f"no weights in {folder}; looked for {known}")


def _read_index(index: Path) -> dict[Path, set[str]]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        places = {str(name): index.parent / file for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise R2T2Error(f"{index} is no index of shards, a JSON object with 'weight_map' ({reason})") from error
    missing = sorted({str(place) for place in places.values() if not place.is_file()})
    if missing:
        raise R2T2Error(f"{index} names files that are not there: {', '.join(missing)}; fetch the checkpoint again")
    shards: dict[Path, set[str]] = {}
    for name, place in places.items():
        shards.setdefault(place, set()).add(name)
    return shards


def _open_safetensors(file: Path) -> dict[str, Entry]:
    """Read the header: eight bytes of length, then JSON with dtype, shape and place of every tensor."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= size - 8:
            raise R2T2Error(f"{file} is truncated or no safetensors file ({size} bytes)")
        header: dict[str, Any] = json.loads(stream.read(length))
    start = 8 + length
    entries: dict[str, Entry] = {}
    for name, described in header.items():
        if name == "__metadata__":
            continue
        shape, (begin, end) = tuple(described["shape"]), described["data_offsets"]
        if described["dtype"] not in DTYPES:
            raise R2T2Error(f"{file}: {name} has dtype {described['dtype']}; known: {', '.join(DTYPES)}")
        dtype = DTYPES[described["dtype"]]
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise R2T2Error(f"{file}: {name} of shape {shape} takes {end - begin} bytes, which does not fit")
        if start + end > size:
            raise R2T2Error(f"{file} is truncated: {size} bytes, {name} ends at {start + end}; fetch it again")
        entries[name] = Entry(file, shape, dtype, _Mapped(file, start + begin, shape, dtype))
    return entries


@dataclass(frozen=True)
class _Mapped:
    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __call__(self) -> np.ndarray:
        """A view of the file. The system is told to fetch it at once: transposing reads in an order it cannot guess."""
        size = math.prod(self.shape) * self.dtype.itemsize
        if not size:
            return np.zeros(self.shape, self.dtype)
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        with self.file.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), self.offset + size - start, offset=start, access=mmap.ACCESS_READ)
        mapped.madvise(mmap.MADV_WILLNEED)
        return np.ndarray(self.shape, self.dtype, buffer=mapped, offset=self.offset - start)


def _open_bin(file: Path) -> dict[str, Entry]:
    shard = _TorchShard(file)
    return {
        name: Entry(file, tuple(tensor.shape), _as_numpy(tensor).dtype, _OfTorch(shard, name))
        for name, tensor in shard.tensors().items()
    }


@dataclass
class _TorchShard:
    """A `.bin`, mapped anew after half a gigabyte: pages that were read stay in memory as long as their map."""

    file: Path
    opened: dict[str, Any] = field(default_factory=dict)
    read: int = 0

    def tensors(self) -> dict[str, Any]:
        try:
            import pickle

            import torch
        except ImportError as error:
            raise R2T2Error(f"{self.file} needs torch; install the extra: pip install 'r2t2-jax[convert]'") from error
        if not self.opened:
            try:
                self.opened = torch.load(self.file, map_location="cpu", weights_only=True, mmap=True)
            except (pickle.UnpicklingError, EOFError) as error:
                raise R2T2Error(f"{self.file} is truncated or holds more than weights") from error
        return self.opened

    def get(self, name: str) -> Any:
        tensor = self.tensors()[name]
        self.read += tensor.nbytes
        if self.read > REOPEN_AFTER:
            self.opened, self.read = {}, 0
        return tensor


@dataclass(frozen=True)
class _OfTorch:
    shard: _TorchShard
    name: str

    def __call__(self) -> np.ndarray:
        return _as_numpy(self.shard.get(self.name))


def _as_numpy(tensor: Any) -> np.ndarray:
    """A view; NumPy has no bfloat16 of its own."""
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


PIECE = 128 * 2**20  # bytes that are written together, and the most that one piece should have


class CheckpointWriter:
    """Collects pieces of parameters and writes them; a parameter's pieces are stored as {path: {"0": ..., "1": ...}}.

    Args:
        folder: the checkpoint, which must not exist.
        wrote: hears of the bytes that were written.
    """

    def __init__(self, folder: Path, wrote: Callable[[int], object]):
        self.folder, self.wrote = folder, wrote
        self._pieces: dict[str, dict[str, np.ndarray]] = {}
        self._held = 0

    def put(self, path: str, number: int, piece: np.ndarray) -> None:
        """Write a piece, now or with those that follow."""
        if self._held and self._held + piece.nbytes > PIECE:
            self._write()
        self._pieces.setdefault(path, {})[str(number)] = piece
        self._held += piece.nbytes

    def finish(self) -> None:
        """Write what is left, and make the checkpoint readable."""
        from orbax.checkpoint import v1 as ocp

        self._write()
        ocp.partial.finalize(self.folder)

    def _write(self) -> None:
        """Save in a thread of its own, and see it through when interrupted: Orbax would write on in the background."""
        with ThreadPoolExecutor(1) as pool:
            saving = pool.submit(self._save)
            try:
                saving.result()
            finally:
                wait([saving])
        self.wrote(self._held)
        self._pieces, self._held = {}, 0

    def _save(self) -> None:
        from orbax.checkpoint import v1 as ocp

        context = ocp.Context()
        context.array.saving.use_compression = False  # trained weights do not shrink
        with context:
            ocp.partial.save(self.folder, self._pieces)
