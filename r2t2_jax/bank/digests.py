"""Is a file still what was written? A quick look for every opening, a full read for `r2t2 bank inspect --verify`.

A file of gigabytes cannot be read whole each time a bank is opened. The quick digest covers the size and, of a file
above `WHOLE` bytes, its first and last block and `BLOCKS` blocks evenly spread between: that finds truncation, another
file in its place, and damage to whole regions. It may miss a single flipped bit, which the full digest finds.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from r2t2_jax.errors import R2T2Error

WHOLE = 1 << 24  # bytes: 16 MiB, read in about 10 ms
BLOCK = 1 << 12
BLOCKS = 256


@dataclass(frozen=True)
class FileDigest:
    """What `bank.json` says of one file."""

    bytes: int
    quick: str
    sha256: str


def digest(path: Path) -> FileDigest:
    """Size and both digests of a file."""
    return FileDigest(path.stat().st_size, quick_digest(path), full_digest(path))


def full_digest(path: Path) -> str:
    """SHA-256 of all bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quick_digest(path: Path) -> str:
    """SHA-256 of the size and of all bytes, or of blocks spread over a large file."""
    size = path.stat().st_size
    found = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size <= WHOLE:
            found.update(file.read())
        else:
            last = size - BLOCK
            for i in range(BLOCKS + 1):
                found.update(os.pread(file.fileno(), BLOCK, last * i // BLOCKS))
    return found.hexdigest()


def check_file(path: Path, expected: FileDigest, whole: bool = False) -> None:
    """Refuse a file that is not what was written.

    Args:
        path: the file.
        expected: what was noted when it was written.
        whole: read all of it.

    Raises:
        R2T2Error: the file is missing, has another size, or holds other bytes.
    """
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise R2T2Error(
                f"{path} has {size:,} bytes, {expected.bytes:,} were written: it is truncated or another file"
            )
        same = full_digest(path) == expected.sha256 if whole else quick_digest(path) == expected.quick
    except FileNotFoundError:
        raise R2T2Error(f"{path} is missing: this is no complete bank; build or import it again") from None
    except OSError as error:
        raise R2T2Error(f"cannot read {path}: {error.strerror}") from error
    if not same:
        raise R2T2Error(
            f"{path} is damaged: its checksum is not the one noted when it was written; build the bank again"
        )
