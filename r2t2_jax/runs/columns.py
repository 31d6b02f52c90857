"""Rows as Arrow columns and back, to the bit: Python values and numpy arrays of any rank, dtype kept.

An array of rank 2 becomes a list of lists, and so on. `stack(table["weights"])` gives arrays of one shape back as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

Row = Mapping[str, Any]


def to_table(rows: Sequence[Row]) -> pa.Table:
    """One column for each key that any row has; a row that lacks it has null there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: Sequence[Any]) -> pa.Array:
    deep = [value for value in values if isinstance(value, np.ndarray) and value.ndim > 1]
    if not deep:
        return pa.array(values)
    if len(deep) < len(values) or len({value.ndim for value in deep}) > 1:
        raise ValueError("a column holds arrays of one rank, in every row")
    lengths = [len(value) for value in deep]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, _column([row for value in deep for row in value]))


def stack(column: pa.ChunkedArray) -> np.ndarray:
    """A column of arrays that all have one shape, as one array with a leading axis of rows.

    Raises:
        ValueError: their shapes differ.
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
    """An Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(payload: bytes) -> pa.Table:
    """The table that `to_bytes` wrote."""
    return pa.ipc.open_stream(payload).read_all()


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """One table after another; a column that is empty everywhere in one of them takes the others' type."""
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks() if tables else pa.table({})
