"""PyTorch checkpoints on disk, read tensor by tensor: safetensors or `.bin`, in one file or in indexed shards.

Opening reads headers only. Tensors keep the dtype of the file, bfloat16 included (as `ml_dtypes.bfloat16`). A `.bin`
file is opened with torch, weights only and memory-mapped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

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
    """One tensor on disk; `read()` returns its values."""

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Checkpoint(Mapping[str, Entry]):
    """Tensors by name. `folder` is the folder that was opened, `files` are its weight files and their indices."""

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
                tensors = (_open_safetensors if shard.suffix == ".safetensors" else _open_bin)(shard)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                problems.append(str(error) if isinstance(error, R2T2Error) else f"{shard} cannot be read ({error})")
                continue
            problems += [f"{shard} has no tensor {name}, its index says it has" for name in listed - set(tensors)]
            problems += [
                f"{name} is both in {entries[name].file} and in {shard}" for name in tensors if name in entries
            ]
            entries |= tensors
    if problems:
        raise R2T2Error(f"damaged checkpoint ({len(problems)} problems): {'; '.join(problems)}")
    return Checkpoint(folder, entries, tuple(files))


def _shards(folder: Path) -> tuple[dict[Path, set[str]], list[Path]]:
    """Weight files, each with the tensor names that the index lists for it, and the index itself."""
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
    """Entries from the file's header, which `safe_open` validates together with the file's size."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            headers = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (not a mapping)
            described = {name: (header.get_dtype(), header.get_shape()) for name, header in headers.items()}
    except SafetensorError as error:
        reason = " ".join(str(error).split())[:200]
        raise R2T2Error(f"{file} is truncated or not a safetensors file ({reason}); fetch it again") from error
    entries: dict[str, Entry] = {}
    for name, (kind, shape) in described.items():
        if kind not in DTYPES:
            raise R2T2Error(f"{file}: {name} has dtype {kind}; known: {', '.join(DTYPES)}")
        entries[name] = Entry(file, tuple(shape), DTYPES[kind], _FromSafetensors(file, name))
    return entries


@dataclass(frozen=True)
class _FromSafetensors:
    file: Path
    name: str

    def __call__(self) -> np.ndarray:
        """The tensor in host memory. The file is mapped only for this read, so its pages do not stay in memory."""
        with safe_open(self.file, framework="numpy") as tensors:
            return tensors.get_tensor(self.name)


def _open_bin(file: Path) -> dict[str, Entry]:
    shard = _TorchShard(file)
    return {
        name: Entry(file, tuple(tensor.shape), _as_numpy(tensor).dtype, _OfTorch(shard, name))
        for name, tensor in shard.tensors().items()
    }


@dataclass
class _TorchShard:
    """A `.bin` file, mapped again after half a gigabyte of reads: pages stay in memory as long as their map."""

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
