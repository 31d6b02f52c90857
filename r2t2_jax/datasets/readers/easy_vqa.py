"""easy-VQA (Victor Zhou 2019), from github.com/vzhou842/easy-VQA, folder easy_vqa/data; MIT.

    <split>/questions.json, a list of [question, answer, image]      <split>/images/<image>.png

One coloured shape on a plain ground, 64 x 64; thirteen answers. The set has no ids: ours are `<split>/<number>`, from
0. Category: what is asked for, `yes/no`, `color` or `shape`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r2t2_jax.datasets.files import Fields, find, parse_rows, read_json
from r2t2_jax.datasets.record import Bad, Record, Source

SHAPES = ("circle", "rectangle", "triangle")


def read(folder: Path, split: str) -> Iterator[Record | Bad]:
    """One record a question."""
    path = find(folder, f"{split}/questions.json", what="questions file")

    def parse(row: Fields) -> Record:
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


SOURCE = Source(
    name="easy_vqa",
    title="easy-VQA",
    read=read,
    splits=("test", "train"),
    files="<split>/questions.json, <split>/images/*.png",
    metric="exact_match",
    licence="MIT",
    home="https://github.com/vzhou842/easy-VQA",
)
