"""PyTorch checkpoints on disk, read tensor by tensor: safetensors or `.bin`, in one file or in indexed shards.

Opening reads headers only. Tensors keep the dtype of the file, bfloat16 included (as `ml_dtypes.bfloat16`). A `.bin`
file is opened with torch, weights only: no code in it is executed. It is memory-mapped, except in torch's format of
before 1.6. Its tensors may be nested under one key, such as `state_dict`.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from r2t2_jax.errors import R2T2Error, missing_extra
from r2t2_jax.runtime.typed_files import content_kind, path_below
from r2t2_jax.runtime.typed_json import open_json

FORMATS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
DTYPES = {
    "F64": np.dtype("f8"), "F32": np.dtype("f4"), "F16": np.dtype("f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("i8"), "I32": np.dtype("i4"), "I16": np.dtype("i2"), "I8": np.dtype("i1"),
    "U8": np.dtype("u1"), "BOOL": np.dtype("?"), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
}  # fmt: skip
REOPEN_AFTER = 512 * 2**20
CHECKED_AT_A_TIME = 2**24  # values
PART = 128 * 2**20  # bytes of a tensor that are mapped at a time
NESTING = ("state_dict", "model_state_dict", "model", "module")  # keys below which checkpoints store their tensors
FETCH = "fetch the checkpoint again"


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

    def weights(self, name: str) -> np.ndarray:
        """The values of a tensor.

        Raises:
            R2T2Error: the tensor holds NaN or infinity, or is not of floating-point numbers.
        """
        entry = self.entries[name]
        tensor = entry.read()
        flat = tensor.reshape(-1)
        if tensor.dtype.kind in "biu":
            raise R2T2Error(f"{entry.file}: {name} has dtype {tensor.dtype}; weights are floating-point numbers")
        for start in range(0, len(flat), CHECKED_AT_A_TIME):
            if not np.isfinite(flat[start : start + CHECKED_AT_A_TIME]).all():
                raise R2T2Error(f"{entry.file}: {name} holds NaN or infinity; {FETCH}")
        return tensor


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
            except R2T2Error as error:
                problems.append(str(error))
                continue
            except OSError as error:
                problems.append(f"{shard} cannot be read ({error.strerror})")
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


@dataclass(frozen=True)
class _Index:
    weight_map: dict[str, str]


def _read_index(index: Path) -> dict[Path, set[str]]:
    try:
        document = open_json(index, FETCH)
        others = set(document.content) - {"weight_map"} if isinstance(document.content, dict) else ()
        weight_map = document.as_type(_Index, leave_out=others).weight_map
    except R2T2Error as error:
        raise R2T2Error(f"{index} is no index of shards: {error}") from error
    if not weight_map:
        raise R2T2Error(f"{index}: 'weight_map' is empty; {FETCH}")
    places = {name: path_below(index.parent, file, str(index)) for name, file in weight_map.items()}
    missing = sorted({str(place) for place in places.values() if not place.is_file()})
    if missing:
        raise R2T2Error(f"{index} names files that are not there: {', '.join(missing)}; {FETCH}")
    shards: dict[Path, set[str]] = {}
    for name, place in places.items():
        shards.setdefault(place, set()).add(name)
    return shards


def _open_safetensors(file: Path) -> dict[str, Entry]:
    """Entries from the file's header, which `safe_open` validates together with the file's size."""
    _check_head(file)
    try:
        with safe_open(file, framework="numpy") as tensors:
            headers = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (not a mapping)
            described = {name: (header.get_dtype(), header.get_shape()) for name, header in headers.items()}
    except (SafetensorError, ValueError, TypeError) as error:  # ValueError: a name that is not UTF-8
        reason = " ".join(str(error).split())[:200]
        raise R2T2Error(f"{file} is truncated or not a safetensors file ({reason}); fetch it again") from error
    entries: dict[str, Entry] = {}
    for name, (kind, shape) in described.items():
        if kind not in DTYPES:
            raise R2T2Error(f"{file}: {name} has dtype {kind}; known: {', '.join(DTYPES)}")
        read = (_Float8 if kind == "F8_E4M3" else _FromSafetensors)(file, name)
        entries[name] = Entry(file, tuple(shape), DTYPES[kind], read)
    return entries


@dataclass(frozen=True)
class _FromSafetensors:
    file: Path
    name: str

    def __call__(self) -> np.ndarray:
        """The tensor in host memory.

        The file is mapped only while a part of at most `PART` bytes is copied, so its pages do not stay in memory.
        """
        with safe_open(self.file, framework="numpy") as tensors:
            header = tensors.get_slice(self.name)
            shape, dtype = header.get_shape(), DTYPES[header.get_dtype()]
            size = math.prod(shape) * dtype.itemsize
            if size <= PART:
                return tensors.get_tensor(self.name)
        tensor, rows = np.empty(shape, dtype), max(1, shape[0] * PART // size)
        for start in range(0, shape[0], rows):
            stop = min(start + rows, shape[0])
            with safe_open(self.file, framework="numpy") as tensors:
                tensor[start:stop] = tensors.get_slice(self.name)[start:stop]
        return tensor


@dataclass(frozen=True)
class _Float8:
    """Reads a tensor that the NumPy side of safetensors does not know."""

    file: Path
    name: str

    def __call__(self) -> np.ndarray:
        start, header = _header(self.file)
        first, last = header[self.name]["data_offsets"]
        with self.file.open("rb") as stream:
            stream.seek(start + first)
            return np.frombuffer(stream.read(last - first), DTYPES["F8_E4M3"]).reshape(header[self.name]["shape"])


@lru_cache(maxsize=4)
def _header(file: Path) -> tuple[int, dict[str, Any]]:
    """The offset of the data of a safetensors file, and its header, which was validated when the file was opened."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return 8 + length, json.loads(stream.read(length))


def _check_head(file: Path) -> None:
    """Refuse a file that is something else than weights: a Git LFS pointer, an HTML page, an empty file."""
    with file.open("rb") as stream:
        head = stream.read(512)
    if head.startswith((b"PK", b"\x80")) or head[8:9] == b"{":  # torch, in both formats; safetensors
        return
    if kind := content_kind(head):
        raise R2T2Error(f"{file} is {kind}")


def _open_bin(file: Path) -> dict[str, Entry]:
    _check_head(file)
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
            import torch
        except ImportError as error:
            raise missing_extra(str(self.file), "torch", "convert") from error
        if not self.opened:
            try:
                content = torch.load(self.file, map_location="cpu", weights_only=True, mmap=self.mapped)
            except Exception as error:  # a damaged file raises many types
                raise R2T2Error(f"{self.file} is truncated or holds more than weights; {FETCH}") from error
            self.opened = _tensors_in(content, self.file)
        return self.opened

    @property
    def mapped(self) -> bool:
        """Whether the file has torch's present format, which can be memory-mapped."""
        return zipfile.is_zipfile(self.file)

    def get(self, name: str) -> Any:
        tensor = self.tensors()[name]
        self.read += tensor.nbytes
        if self.read > REOPEN_AFTER and self.mapped:
            self.opened, self.read = {}, 0
        return tensor


def _tensors_in(content: Any, file: Path) -> dict[str, Any]:
    """The tensors of a loaded `.bin` file, by name; those of its only nested state dictionary, if it has no other.

    Raises:
        R2T2Error: it holds no tensors by name, several state dictionaries, or an entry that is not a plain tensor.
    """
    import torch

    if not isinstance(content, Mapping):
        raise R2T2Error(f"{file} holds a {type(content).__name__}, not tensors by name")
    if content and not any(isinstance(entry, torch.Tensor) for entry in content.values()):
        nested = [key for key in NESTING if isinstance(content.get(key), Mapping)]
        if len(nested) > 1:
            raise R2T2Error(f"{file} holds several state dictionaries ({', '.join(nested)}); save only one of them")
        content = content[nested[0]] if nested else content
    for name, tensor in content.items():
        if not isinstance(name, str):
            raise R2T2Error(f"{file}: entry {name!r} has no name")
        if not isinstance(tensor, torch.Tensor):
            raise R2T2Error(f"{file}: entry {name!r} is no tensor but a {type(tensor).__name__}; save only the weights")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
            kind = "quantized" if tensor.is_quantized else "on the meta device" if tensor.is_meta else tensor.layout
            raise R2T2Error(f"{file}: tensor {name!r} is {kind}; save a dense one")
        if str(tensor.dtype).removeprefix("torch.") not in {"bfloat16", *map(str, DTYPES.values())}:
            raise R2T2Error(f"{file}: tensor {name!r} has dtype {tensor.dtype}; known: {', '.join(DTYPES)}")
    if not content:
        raise R2T2Error(f"{file} holds no tensors")
    return dict(content)


@dataclass(frozen=True)
class _OfTorch:
    shard: _TorchShard
    name: str

    def __call__(self) -> np.ndarray:
        return _as_numpy(self.shard.get(self.name))


def _as_numpy(tensor: Any) -> np.ndarray:
    """A view; NumPy has no bfloat16 and float8 of its own, and takes no parameters and no lazily negated views."""
    import torch

    tensor = tensor.detach().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
    return tensor.numpy()
