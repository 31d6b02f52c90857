"""easy-VQA (Victor Zhou 2019), from github.com/vzhou842/easy-VQA, folder easy_vqa/data; MIT.

    <split>/questions.json, a list of [question, answer, image]      <split>/images/<image>.png

The images show one colored shape on a plain background, 64 x 64 pixels; there are thirteen answers. The dataset has no
ids; `<split>/<number>` is used, counted from 0. Category: the kind of answer, `yes/no`, `color` or `shape`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r2t2_jax.datasets.files import Fields, find_path, parse_rows, read_json
from r2t2_jax.datasets.record import DatasetSpec, Record, Records

SHAPES = ("circle", "rectangle", "triangle")


def read(folder: Path, split: str) -> Records:
    """Yields one record per question."""
    path = find_path(folder, f"{split}/questions.json", what="questions file")

    def parse(row: Fields) -> Record:
        """The record of a row."""
        answer = row.text("answer")
        return Record(
            id=f"{split}/{row.where.rpartition(' ')[2]}",
            image=path.parent / "images" / f"{row.integer('image')}.png",
            question=row.text("question"),
            answers=(answer,),
            category="yes/no" if answer in ("yes", "no") else "shape" if answer in SHAPES else "color",
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, ((f"question {i}", _object(row)) for i, row in enumerate(read_json(path, list))), parse)


def _object(row: Any) -> Any:
    return dict(zip(("question", "answer", "image"), row, strict=False)) if isinstance(row, list) else row


DATASETS = (
    DatasetSpec(
        name="easy_vqa",
        title="easy-VQA",
        read=read,
        splits=("test", "train"),
        files="<split>/questions.json, <split>/images/*.png",
        metric="exact_match",
        license="MIT",
        home="https://github.com/vzhou842/easy-VQA",
    ),
)
