"""Records of references (question, answers, image, prediction) and readers of their features.

Records are a Parquet table on disk. In memory they are a sequence of mappings that decodes rows on access, since
creating a million dictionaries would take longer than searching the bank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from r2t2_jax.contract import Answer, Features
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_files import open_array, path_below, read_parquet

AGAIN = "build or import the bank again"
RECENT = 1024  # records that are kept: questions on one subject have the same neighbors
_TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # as in the dataset
        ("source", pa.string()),  # dataset or file
        ("split", pa.string()),
        ("category", pa.string()),
        ("question", pa.string()),
        ("options", _TEXTS),
        ("style", pa.string()),  # letter, word or plain: the form of answer that the prompt asks for
        ("answer", pa.string()),  # y: the most common ground truth, in the prompted form
        ("answers", _TEXTS),  # all accepted answers
        ("experts", _TEXTS),  # the experts that solve the sample, where known
        ("image", pa.string()),  # path of the image, or its id within the source
        ("image_sha256", pa.string()),  # of the decoded pixels; empty if the image is unknown
        ("prediction", pa.string()),  # the model's answer
        ("score", pa.float64()),
        ("correct", pa.bool_()),  # score >= 0.5
    ]
)


class Records(Sequence[Mapping[str, Any]]):
    """Rows of a table, or of a Parquet file that is read on first access."""

    def __init__(self, table: pa.Table | Path, rows: Int[np.ndarray, "N"] | None = None) -> None:
        self._source = table
        self._rows = rows
        self._recent: dict[int, Mapping[str, Any]] = {}  # rows that were read one by one

    @cached_property
    def table(self) -> pa.Table:
        """All rows as an Arrow table."""
        table = read_parquet(self._source, AGAIN, SCHEMA) if isinstance(self._source, Path) else self._source
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
        row = range(self.table.num_rows)[i]
        record = self._recent.get(row)
        if record is None:
            if len(self._recent) >= RECENT:
                self._recent.clear()
            record = self._recent[row] = self.table.slice(row, 1).to_pylist()[0]
        return record

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self.table.to_batches():
            yield from batch.to_pylist()

    def take(self, rows: Int[np.ndarray, "n"]) -> Records:
        """The given rows."""
        return Records(self._source, rows if self._rows is None else self._rows[rows])

    def column(self, name: str) -> list[Any]:
        """The values of a column."""
        return self.table.column(name).to_pylist()


def as_table(records: Sequence[Mapping[str, Any]], correct: Bool[np.ndarray, "N"]) -> pa.Table:
    """A table in the bank's schema. Missing columns are filled with nulls; additional columns are kept."""
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
    """The column `correct` of a Parquet file."""
    column = read_parquet(path, AGAIN, columns=["correct"]).column("correct")
    if column.null_count:
        raise R2T2Error(f"{path}: column 'correct' has empty cells; {AGAIN}")
    return np.array(column.to_pylist(), bool)  # to_numpy imports pandas where it is installed


Rows = Int[np.ndarray, "n"]


class SampleReader(Protocol):
    """Features and answers of bank rows; every leaf has a leading axis n. Rows may repeat."""

    def __call__(self, rows: Rows) -> tuple[Features, Answer]: ...


@dataclass(frozen=True)
class StoredSamples:
    """Features and answers in arrays with a leading axis N, in memory or memory-mapped."""

    features: Features
    answers: Answer

    def __call__(self, rows: Rows) -> tuple[Features, Answer]:
        return jax.tree.map(lambda leaf: leaf[rows], (self.features, self.answers))


@dataclass(frozen=True)
class SelectedSamples:
    """Selected rows of another reader."""

    reader: SampleReader
    rows: Rows

    def __call__(self, rows: Rows) -> tuple[Features, Answer]:
        return self.reader(self.rows[rows])


@dataclass(frozen=True)
class ConcatenatedSamples:
    """The readers of concatenated banks; `starts` has the first row of each bank."""

    readers: Sequence[SampleReader]
    starts: Rows

    def __call__(self, rows: Rows) -> tuple[Features, Answer]:
        reader = np.searchsorted(self.starts, rows, side="right") - 1
        parts = [(i, np.flatnonzero(reader == i)) for i in np.unique(reader)]
        trees = [self.readers[i](rows[indices] - self.starts[i]) for i, indices in parts]
        order = np.argsort(np.concatenate([indices for _, indices in parts]))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *trees)


@dataclass(frozen=True)
class StoredLeaf:
    """One leaf of the stored features or answers: its path in the tree, and the file that holds it.

    `.npy` files cannot hold bfloat16: such a leaf is stored as uint16, and `dtype` is its true type.
    """

    path: str
    file: str
    dtype: str


def stored_leaves(name: str, tree: Any) -> list[StoredLeaf]:
    """Path, file and dtype of every leaf of a tree that is stored under a name."""
    return [
        StoredLeaf(jax.tree_util.keystr(path), f"{name}/{number:02d}.npy", str(leaf.dtype))
        for number, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree))
    ]


def as_stored(tree: Any) -> list[np.ndarray]:
    """The leaves of a tree as arrays that `.npy` files can hold, in the order of `stored_leaves`."""
    leaves = map(np.asarray, jax.tree.leaves(tree))
    return [leaf.view(np.uint16) if leaf.dtype == jnp.bfloat16 else leaf for leaf in leaves]


def open_leaves(folder: Path, leaves: Sequence[StoredLeaf], like: Any, rows: int) -> Any:
    """Memory-map stored leaves in the structure of `like`, with a leading axis of `rows` samples.

    Raises:
        R2T2Error: the stored leaves are not those of `like`, or a file does not have the dtype that is stated.
    """
    by_path = {leaf.path: leaf for leaf in leaves}
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    if set(paths) != set(by_path):
        raise R2T2Error(
            f"{folder} stores the leaves {' '.join(sorted(by_path))}; this model has {' '.join(sorted(paths))}"
        )
    ordered = [by_path[path] for path in paths]
    arrays = [_open_leaf(folder, leaf, rows, other) for leaf, other in zip(ordered, jax.tree.leaves(like), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


def _open_leaf(folder: Path, leaf: StoredLeaf, rows: int, like: Any) -> np.ndarray:
    file = path_below(folder, leaf.file, "bank.json")
    if leaf.dtype != str(like.dtype):
        raise R2T2Error(f"{file} holds {leaf.dtype}, this model has {like.dtype} at {leaf.path}; {AGAIN}")
    stored = "uint16" if leaf.dtype == "bfloat16" else leaf.dtype
    return open_array(file, (stored,), (rows, *(None for _ in like.shape[1:])), AGAIN).view(jnp.dtype(leaf.dtype))
