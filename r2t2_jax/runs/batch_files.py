"""The rows of a run: one Parquet file per batch, `batches/00012.parquet`, complete or absent.

A file is written to a temporary sibling, synced and renamed, so a batch whose file exists is done. Reading verifies the
checksums of pages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from r2t2_jax.runs.atomic_io import atomic_write, remove_drafts, sync
from r2t2_jax.runs.plan import Plan
from r2t2_jax.runtime.typed_files import read_parquet, read_parquet_schema

BATCHES = "batches"
EARLIER = "earlier"  # the batches of a complete run that is being extended, and its run.json
AGAIN = "delete the file to compute its batch again"
ROW_GROUP = 4096  # rows of a group in an exported table

Row = Mapping[str, Any]


class BatchFiles:
    """The batch files of a run, open for writing. Opening removes temporary files of a killed process.

    Args:
        folder: the run's folder.
        extended: the batches there are those of a complete run that is to be extended: all must be computed again.
    """

    def __init__(self, folder: Path, extended: bool = False) -> None:
        self.folder = folder / BATCHES
        self.saved = {} if extended else saved_batches(folder)
        self.earlier = saved_batches(folder, BATCHES if extended else EARLIER)
        if self.folder.exists():
            remove_drafts(self.folder)

    def set_aside(self) -> None:
        """Move the batches of a complete run to `earlier/`."""
        os.rename(self.folder, self.folder.with_name(EARLIER))
        sync(self.folder.parent)
        self.earlier = saved_batches(self.folder.parent, EARLIER)

    def write(self, number: int, rows: Sequence[Row] | pa.Table) -> None:
        """Write the rows of a batch durably. Threads may write different batches at the same time.

        Raises:
            OSError: the file could not be written; none is left.
        """
        if not self.folder.exists():
            self.folder.mkdir(exist_ok=True)
            sync(self.folder.parent)
        path = self.folder / f"{number:05d}.parquet"
        write_table(path, rows if isinstance(rows, pa.Table) else to_table(rows))
        self.saved[number] = path

    def remove(self) -> None:
        """Remove all batch files."""
        for path in saved_batches(self.folder.parent).values():
            path.unlink()
        if self.folder.exists():
            remove_drafts(self.folder)
            self.folder.rmdir()
        self.saved = {}


def saved_batches(folder: Path, name: str = BATCHES) -> dict[int, Path]:
    """The batch files of a run's folder, by batch number."""
    batches = folder / name
    paths = sorted(batches.iterdir()) if batches.is_dir() else []
    return {int(path.stem): path for path in paths if re.fullmatch(r"\d{5,}\.parquet", path.name)}


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as a Parquet file with checksums, complete or not at all."""
    atomic_write(path, lambda draft: pq.write_table(table, draft, write_page_checksum=True), clean=False)


def read_batch(path: Path) -> pa.Table:
    """The rows of a batch file.

    Raises:
        R2T2Error: the file is damaged or cannot be read.
    """
    return read_parquet(path, AGAIN, checksums=True)


def row_count(path: Path) -> int:
    """The number of rows of a Parquet file, from its footer.

    Raises:
        R2T2Error: the file is damaged or cannot be read.
    """
    return read_parquet_schema(path, "delete the file, and repeat the command that wrote it")[1]


def read_table(saved: Mapping[int, Path], plan: Plan, parts: Collection[str]) -> pa.Table:
    """The saved rows of the given parts, in the order of the plan."""
    return join(list(read_batches(saved, plan, parts).values()))


def read_batches(saved: Mapping[int, Path], plan: Plan, parts: Collection[str]) -> dict[int, pa.Table]:
    """The saved rows of each batch of the given parts, by its number in the order of the plan."""
    numbers = [batch.number for batch in plan.batches if batch.part in parts and batch.number in saved]
    return {number: read_batch(saved[number]) for number in numbers}


def export_table(path: Path, saved: Mapping[int, Path], plan: Plan, parts: Collection[str]) -> None:
    """Write the rows of the given parts as one Parquet file, in the order of the plan, a row group at a time.

    Raises:
        R2T2Error: a batch file is damaged.
    """
    paths = [saved[batch.number] for batch in plan.batches if batch.part in parts and batch.number in saved]
    tables = [table for table in map(read_batch_schema, paths) if len(table)]
    schema = pa.unify_schemas(tables, promote_options="permissive") if tables else pa.schema([])

    def write(draft: Path) -> None:
        with pq.ParquetWriter(draft, schema) as writer:
            for group in _groups(map(read_batch, paths)):
                writer.write_table(join([schema.empty_table(), group]).select(schema.names).cast(schema))

    atomic_write(path, write)


def read_batch_schema(path: Path) -> pa.Schema:
    """The columns of a batch file; raises as `read_batch`."""
    return read_parquet_schema(path, AGAIN)[0]


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables concatenated to groups of at least `ROW_GROUP` rows."""
    group: list[pa.Table] = []
    for table in tables:
        if table.num_rows:
            group.append(table)
        if sum(part.num_rows for part in group) >= ROW_GROUP:
            yield join(group)
            group = []
    if group:
        yield join(group)


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


def with_rows(table: pa.Table, rows: Sequence[Row]) -> pa.Table:
    """A table that was read, with further rows, as `to_table` returns all rows: Parquet names the items of lists."""
    joined = join([table, to_table(rows)])
    return joined.cast(pa.schema([(field.name, _with_items(field.type)) for field in joined.schema]))


def _with_items(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_with_items(kind.value_type)) if pa.types.is_list(kind) else kind


def stack(column: pa.ChunkedArray) -> np.ndarray:
    """A column of equally shaped arrays as one array with a leading axis of rows.

    Raises:
        ValueError: the shapes differ.
    """
    values, shape = column.combine_chunks(), [len(column)]
    while pa.types.is_list(values.type):
        lengths = set(np.diff(_to_numpy(values.offsets)).tolist())
        if len(lengths) > 1:
            raise ValueError(f"rows of lengths {sorted(lengths)} do not stack")
        shape.append(lengths.pop() if lengths else 0)
        values = values.flatten()
    return _to_numpy(values).reshape(shape)


def _to_numpy(values: pa.Array) -> np.ndarray:
    """The values, without a copy where possible; PyArrow's `to_numpy` imports pandas where it is installed."""
    if pa.types.is_null(values.type) and not len(values):
        return np.zeros(0, object)
    if values.null_count or not pa.types.is_primitive(values.type):
        return values.to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(values.type):
        return np.from_dlpack(values.cast(pa.uint8())).view(bool)
    return np.from_dlpack(values)


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """The tables concatenated; a column that is empty in one table takes its type from the others."""
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks() if tables else pa.table({})
