"""Cells of CSV files: texts that a spreadsheet would compute as formulas begin with an apostrophe."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_files import read_text

if TYPE_CHECKING:
    import pyarrow as pa

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # first letters of cells that spreadsheets compute
QUOTED_OR_FORMULA = ("'", *FORMULA)
NUMBER = re.compile(r"[-+]?[\d.,]*( to [-+]?[\d.]+)?")


def inert_cell(value: Any) -> Any:
    """The value of a cell; a text that begins like a formula and is no number gets an apostrophe before it.

    So does such a text with apostrophes before it, so that `cell_text` can undo it.
    """
    if not isinstance(value, str) or not value.startswith(QUOTED_OR_FORMULA):
        return value
    text = value.lstrip("'")
    return f"'{value}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else value


def cell_text(cell: str) -> str:
    """The text of a cell that `inert_cell` made."""
    return cell[1:] if cell.startswith("'") and inert_cell(cell[1:]) == cell else cell


def write_csv(path: Path, table: pa.Table) -> None:
    """Write a table with a header line; texts are quoted and inert."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            cells = [inert_cell(cell) for cell in table.column(number).to_pylist()]
            table = table.set_column(number, field, pa.array(cells, pa.string()))
    pacsv.write_csv(table, path)


def read_csv(path: Path, remedy: str) -> list[dict[str, str]]:
    """The rows of a CSV file with a header line, by column; quoted cells may hold line breaks.

    Args:
        path: the file.
        remedy: what to do about any problem.

    Raises:
        R2T2Error: the file cannot be read, is no CSV, has a column twice, or a row of another length.
    """
    lines = io.StringIO(read_text(path), newline="")
    try:
        header, *rows = [row for row in csv.reader(lines, strict=True) if row] or [[]]
    except csv.Error as error:
        raise R2T2Error(f"{path} is no table of comma-separated values ({error}); {remedy}") from error
    if len(set(header)) < len(header):
        raise R2T2Error(f"{path} has several columns of one name; {remedy}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise R2T2Error(f"{path}: row {number} has {len(row)} cells, the header {len(header)}; {remedy}")
    return [dict(zip(header, map(cell_text, row), strict=True)) for row in rows]
