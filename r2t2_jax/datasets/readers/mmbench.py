"""MMBench dev (Liu et al. 2023), from github.com/open-compass/MMBench or its Hugging Face copy; Apache-2.0.

    mmbench_dev_20230712.tsv, MMBench_DEV_EN_legacy.tsv, MMBench_DEV_EN.tsv, or the only .tsv file in the folder

Test answers are hidden. A file with circular passes (index = pass * 1,000,000 + base) is read as it is. For a file with
one row per question the passes are built by rotating the options as the official evaluation does, so that CircularEval
can be scored. A hint precedes the question. An empty cell is a letter without an option; the options after it keep
their letters. An image cell is base64, also in several lines or as a data URL, or the index of a row with the same
image. Category: the finer category.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase

from r2t2_jax.contract import options_by_letter
from r2t2_jax.datasets.files import Fields, check_letter, find_path, parse_rows, read_text
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics.sets import CIRCULAR, mmbench_question

FILES = ("mmbench_dev_20230712.tsv", "MMBench_DEV_EN_legacy.tsv", "MMBench_DEV_EN.tsv", "*.tsv")
COLUMNS = ("index", "question", "hint", "A", "B", "answer", "category", "image")
LONGEST_CELL = 1 << 30  # images are cells
EMPTY = ("", "nan")


def read(folder: Path, split: str) -> Records:
    """Yields one record per pass, in the order of the file."""
    path = find_path(folder, *FILES)
    rows = _rows(path)
    images = {row["index"]: row["image"] for row in rows if row["index"]}
    complete = any(_number(row["index"]) >= CIRCULAR for row in rows)

    def parse(row: Fields) -> Record:
        """The record of a row."""
        index = row.text("index")
        if not index.isdecimal():
            raise R2T2Error(f"{row.where}: index {index!r} is not a number")
        options = _options(row)
        hint = str(row.values.get("hint") or "")
        return Record(
            id=index,
            image=_image(row, images),
            question="\n".join([*([hint] if hint not in EMPTY else []), row.text("question")]),
            options=options,
            answers=(check_letter(row.text("answer"), options, row.where),),
            style="letter",
            category=str(row.values.get("category") or ""),
            split=split,
            where=row.where,
        )

    parsed = parse_rows(path, ((f"row {number}", row) for number, row in enumerate(rows, start=2)), parse)
    for record in parsed:
        yield record
        if isinstance(record, Record) and not complete:
            yield from _further_passes(record)


def _rows(path: Path) -> list[dict[str, str]]:
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter="\t")
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise R2T2Error(f"{path}: has no column {', '.join(missing)}: is this the official file?")
        return list(reader)
    except csv.Error as error:
        raise R2T2Error(f"{path}: not a table, perhaps cut off: {error}") from error
    finally:
        csv.field_size_limit(before)


def _options(row: Fields) -> tuple[str, ...]:
    """The texts of the columns A, B, ..., up to the last that is not empty; an empty text for an empty cell."""
    cells = [str(row.values.get(name) or "") for name in ascii_uppercase]
    texts = ["" if cell.strip() in EMPTY else cell for cell in cells]
    return tuple(texts[: max((i + 1 for i, text in enumerate(texts) if text), default=0)])


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _image(row: Fields, images: dict[str, str]) -> bytes:
    """The image of a row; the cell may hold the index of another row with the same image, or a `data:` URL."""
    cell, rows = row.text("image"), set[str]()
    while cell.isdecimal() and cell in images:
        if cell in rows:
            raise R2T2Error(f"{row.where}: the image is that of row {cell}, which names this row in turn")
        rows.add(cell)
        cell = images[cell] or ""
    if cell.startswith("data:"):
        cell = cell.partition(",")[2]
    try:
        return base64.b64decode("".join(cell.split()), validate=True)
    except binascii.Error as error:
        raise R2T2Error(f"{row.where}: the image is not base64, perhaps cut off: {error}") from error


def _further_passes(record: Record) -> Iterator[Record]:
    """Pass r lists the option texts rotated by r under the same letters; the letter of the answer changes."""
    offered = options_by_letter(record.options)
    letters, texts = list(offered), list(offered.values())
    right = letters.index(record.answers[0])
    for r in range(1, len(letters)):
        rotated = dict(zip(letters, texts[r:] + texts[:r], strict=True))
        yield replace(
            record,
            id=str(r * CIRCULAR + int(record.id)),
            options=tuple(rotated.get(letter, "") for letter in ascii_uppercase[: len(record.options)]),
            answers=(letters[(right - r) % len(letters)],),
        )


DATASETS = (
    DatasetSpec(
        name="mmbench",
        title="MMBench dev",
        read=read,
        splits=("dev",),
        files="mmbench_dev_20230712.tsv or MMBench_DEV_EN(_legacy).tsv",
        metric="mmbench",
        set_score="mmbench",
        group=mmbench_question,
        license="Apache-2.0",
        home="https://github.com/open-compass/MMBench",
        role="evaluation",
        paper_size=2374,
    ),
)
