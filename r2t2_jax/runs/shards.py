"""Append-only shards: each batch is one record, framed so that a half-written one is found and cut off.

A record is the header `R2T2`, batch number, payload length, CRC-32 of number, length and payload (little-endian: 4
bytes, u32, u64, u32), then the payload. A record is durable once `append` returns.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r2t2_jax.runs.files import sync

MAGIC = b"R2T2"
HEADER = struct.Struct("<4sIQI")
CHECKED = struct.Struct("<IQ")
FULL = 64 * 2**20  # bytes after which the next shard begins


@dataclass(frozen=True)
class Record:
    """Where the payload of a batch lies."""

    batch: int
    shard: Path
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.length

    def read(self) -> bytes:
        """The payload."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("shard-[0-9]*.rows"))


def find_records(folder: Path) -> dict[int, Record]:
    """The whole records of all shards, by batch."""
    return {record.batch: record for path in shard_paths(folder) for record in _whole_records(path)}


def _whole_records(shard: Path) -> Iterator[Record]:
    """Up to the first that is torn or damaged."""
    with shard.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while len(header := file.read(HEADER.size)) == HEADER.size:
            magic, batch, length, crc = HEADER.unpack(header)
            offset = file.tell()
            if magic != MAGIC or length > size - offset or _crc(batch, file.read(length)) != crc:
                return
            yield Record(batch, shard, offset, length)


def _crc(batch: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(CHECKED.pack(batch, len(payload))))


class Shards:
    """The shards of a run, open for appending. Opening cuts off what is torn or damaged; those batches are lost.

    Args:
        folder: where the shards lie.
        full: bytes after which the next shard begins.
    """

    def __init__(self, folder: Path, full: int = FULL) -> None:
        self._folder, self._full = folder, full
        self.records = find_records(folder)
        paths = shard_paths(folder)
        for path in paths:
            end = max((record.end for record in self.records.values() if record.shard == path), default=0)
            if end < path.stat().st_size:
                _cut(path, end)
        self._path = paths[-1] if paths else folder / _name(0)

    def append(self, batch: int, payload: bytes) -> None:
        """Write a record and make it durable.

        Raises:
            OSError: it could not be written; the shard is as it was.
        """
        if self._path.exists() and self._path.stat().st_size >= self._full:
            self._path = self._folder / _name(len(shard_paths(self._folder)))
        fresh = not self._path.exists()
        header = HEADER.pack(MAGIC, batch, len(payload), _crc(batch, payload))
        with self._path.open("ab", buffering=0) as file:
            start = file.tell()
            try:
                _write(file.fileno(), header + payload)
                os.fsync(file.fileno())
            except BaseException:
                os.ftruncate(file.fileno(), start)
                raise
        if fresh:
            sync(self._folder)
        self.records[batch] = Record(batch, self._path, start + HEADER.size, len(payload))


def _name(number: int) -> str:
    return f"shard-{number:05d}.rows"


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _cut(path: Path, end: int) -> None:
    with path.open("r+b") as file:
        file.truncate(end)
        os.fsync(file.fileno())
