"""What files a model was made of, by their sha256."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

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
