"""Append-only shards: each batch is one record with a checksum, so that half-written records are detected and cut off.

A record is the header `R2T2`, batch number, payload length, CRC-32 of number, length and payload (little-endian: 4
bytes, u32, u64, u32), then the payload. A record is durable once `append` returns.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from r2t2_jax.runs.atomic_io import sync
from r2t2_jax.runs.plan import Plan

MAGIC = b"R2T2"
HEADER = struct.Struct("<4sIQI")
CHECKED = struct.Struct("<IQ")
FULL = 64 * 2**20  # size in bytes from which a new shard is begun


@dataclass(frozen=True)
class Record:
    """The location of a batch's payload."""

    batch: int
    shard: Path
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset of the first byte after the payload."""
        return self.offset + self.length

    def read(self) -> bytes:
        """The bytes of the payload."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


def shard_paths(folder: Path) -> list[Path]:
    """The shard files of a folder, in order."""
    return sorted(folder.glob("shard-[0-9]*.rows"))


def find_records(folder: Path) -> dict[int, Record]:
    """All undamaged records of a folder's shards, by batch number."""
    return {record.batch: record for path in shard_paths(folder) for record in _whole_records(path)}


def _whole_records(shard: Path) -> Iterator[Record]:
    """The records up to the first that is incomplete or damaged."""
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
    """The shards of a run, open for appending. Opening cuts off incomplete or damaged records; those batches are lost.

    Args:
        folder: the folder of the shards.
        full: size in bytes from which a new shard is begun.
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
        """Write a record and fsync it.

        Raises:
            OSError: the record could not be written; the shard is unchanged.
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


Row = Mapping[str, Any]


def to_table(rows: Sequence[Row]) -> pa.Table:
    """A table with one column per key of any row; a row without the key has null."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: Sequence[Any]) -> pa.Array:
    deep = [value for value in values if isinstance(value, np.ndarray) and value.ndim > 1]
    if not deep:
        return pa.array(values)
    if len(deep) < len(values) or len({value.ndim for value in deep}) > 1:
        raise ValueError("the arrays of a column must have one rank in every row")
    lengths = [len(value) for value in deep]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, _column([row for value in deep for row in value]))


def stack(column: pa.ChunkedArray) -> np.ndarray:
    """A column of equally shaped arrays as one array with a leading axis of rows.

    Raises:
        ValueError: the shapes differ.
    """
    values, shape = column.combine_chunks(), [len(column)]
    while pa.types.is_list(values.type):
        lengths = set(np.diff(values.offsets.to_numpy()).tolist())
        if len(lengths) > 1:
            raise ValueError(f"rows of lengths {sorted(lengths)} do not stack")
        shape.append(lengths.pop() if lengths else 0)
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def to_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(payload: bytes) -> pa.Table:
    """The table that `to_bytes` wrote."""
    return pa.ipc.open_stream(payload).read_all()


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """The tables concatenated; a column that is empty in one table takes its type from the others."""
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks() if tables else pa.table({})


def read_table(records: Mapping[int, Record], plan: Plan, parts: Collection[str]) -> pa.Table:
    """The saved rows of the given parts, in the order of the plan."""
    numbers = [batch.number for batch in plan.batches if batch.part in parts and batch.number in records]
    return join([from_bytes(records[number].read()) for number in numbers])
