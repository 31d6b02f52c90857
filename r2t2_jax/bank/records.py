"""What is told of each reference: question, answers, where its image is, what the model said.

On disk a Parquet table; in memory a sequence of mappings that decodes the rows asked for, since a million of Python's
dictionaries would take longer to make than the search through them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

_TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # the dataset's own
        ("source", pa.string()),  # the dataset, or the file
        ("split", pa.string()),
        ("category", pa.string()),
        ("question", pa.string()),
        ("options", _TEXTS),
        ("style", pa.string()),  # letter, word or plain: what the prompt asks for
        ("answer", pa.string()),  # y: the most common ground truth, in the prompted form
        ("answers", _TEXTS),  # every accepted one
        ("experts", _TEXTS),  # those a person would use, where somebody knows them
        ("image", pa.string()),  # where the image is: a path, or the id within the source
        ("image_sha256", pa.string()),  # of the decoded pixels; empty where no image was seen
        ("prediction", pa.string()),  # the model's own words
        ("score", pa.float64()),
        ("correct", pa.bool_()),  # score >= 0.5
    ]
)


class Records(Sequence[Mapping[str, Any]]):
    """Rows of a table, or of a Parquet file that is read when the first row is asked for."""

    def __init__(self, table: pa.Table | Path, rows: Int[np.ndarray, "N"] | None = None) -> None:
        self._source = table
        self._rows = rows

    @cached_property
    def table(self) -> pa.Table:
        """All rows as an Arrow table."""
        table = pq.read_table(self._source) if isinstance(self._source, Path) else self._source
        return table if self._rows is None else table.take(pa.array(self._rows))

    def __len__(self) -> int:
        if self._rows is not None:
            return len(self._rows)
        return pq.read_metadata(self._source).num_rows if isinstance(self._source, Path) else self._source.num_rows

    @overload
    def __getitem__(self, i: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, i: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        if isinstance(i, slice):
            return self.take(np.arange(len(self))[i])
        return self.table.slice(range(len(self))[i], 1).to_pylist()[0]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self.table.to_batches():
            yield from batch.to_pylist()

    def take(self, rows: Int[np.ndarray, "n"]) -> Records:
        """The given rows."""
        return Records(self._source, rows if self._rows is None else self._rows[rows])

    def column(self, name: str) -> list[Any]:
        """One column, as Python values."""
        return self.table.column(name).to_pylist()


def as_table(records: Sequence[Mapping[str, Any]], correct: Bool[np.ndarray, "N"]) -> pa.Table:
    """A table in the bank's schema. Missing columns are filled with nulls; columns beyond the schema are kept."""
    if isinstance(records, Records):
        table = records.table
    elif records:
        table = pa.Table.from_pylist([dict(record) for record in records])
    else:
        table = pa.table({"id": pa.array([str(i) for i in range(len(correct))])})
    columns = {name: table.column(name) for name in table.column_names} | {"correct": pa.array(correct)}
    known = {
        field.name: columns[field.name].cast(field.type)
        if field.name in columns
        else pa.nulls(len(correct), field.type)
        for field in SCHEMA
    }
    return pa.table(known | {name: column for name, column in columns.items() if name not in known})


def read_correct(path: Path) -> Bool[np.ndarray, "N"]:
    """The flags of a Parquet file, without the rest of it."""
    column = pq.read_table(path, columns=["correct"]).column("correct")
    return np.asarray(column.to_numpy(zero_copy_only=False), bool)
