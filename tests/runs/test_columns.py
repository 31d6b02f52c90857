"""Rows are read back bit for bit."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from r2t2_jax.runs.batch_files import BatchFiles, join, read_batch, stack, to_table


def saved(rows: list[dict[str, Any]]) -> pa.Table:
    with TemporaryDirectory() as folder:
        files = BatchFiles(Path(folder))
        files.write(0, rows)
        return read_batch(files.saved[0])


FLOATS = hnp.floating_dtypes(endianness="<", sizes=(16, 32, 64))
DTYPES = st.one_of(FLOATS, hnp.integer_dtypes(endianness="<"), hnp.unsigned_integer_dtypes(endianness="<"))


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=2, max_dims=5, max_side=4)))
def test_arrays_of_any_rank_are_read_back_bit_for_bit(rows: np.ndarray) -> None:
    table = saved([{"x": row} for row in rows])
    result = stack(table["x"])
    assert (result.dtype, result.shape) == (rows.dtype, rows.shape)
    assert result.tobytes() == rows.tobytes()  # NaN and -0.0 included


def test_values_of_rows_are_read_back() -> None:
    rows = [
        {"id": "a", "score": 0.1, "right": True, "words": ["x", "y"], "path": np.ones((2, 3), np.float32)},
        {"id": "b", "score": -0.0, "right": False, "words": [], "path": np.zeros((1, 3), np.float32), "note": "late"},
    ]
    result = saved(rows).to_pylist()
    assert result[0] == rows[0] | {"path": [[1.0] * 3] * 2, "note": None}
    assert result[1] == rows[1] | {"path": [[0.0] * 3]}
    with pytest.raises(ValueError, match="do not stack"):
        stack(to_table(rows)["path"])


def test_a_column_that_is_empty_in_one_batch_takes_its_type_from_the_others() -> None:
    joined = join([to_table([{"words": [], "step": None}]), to_table([{"words": ["x"], "step": 3}])])
    assert joined.to_pylist() == [{"words": [], "step": None}, {"words": ["x"], "step": 3}]
    assert joined.schema.field("words").type.value_type == pa.string()
    assert join([]).num_rows == 0


def test_arrays_of_several_ranks_in_one_column_are_refused() -> None:
    with pytest.raises(ValueError, match="one rank"):
        to_table([{"x": np.zeros((1, 2))}, {"x": np.zeros((1, 2, 3))}])


@pytest.mark.parametrize(
    "values", [[[True, False], [False, True]], [[], []], [[1.5, None]], [["a"], ["b"]], [[2], [3]]]
)
def test_lists_of_any_values_are_stacked(values: list[list[Any]]) -> None:
    column = saved([{"x": row} for row in values])["x"]
    expected = np.array(values, float if None in values[0] else None)
    result = stack(column)
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)
