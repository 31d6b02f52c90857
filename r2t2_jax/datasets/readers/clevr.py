"""CLEVR v1.0 (Johnson et al. 2017), from cs.stanford.edu/people/jcjohns/clevr; CC BY 4.0.

    CLEVR_v1.0/questions/CLEVR_<split>_questions.json      CLEVR_v1.0/images/<split>/CLEVR_<split>_<6 digits>.png

Test answers are not published. The id is the question's index; the image is the named one, for the index of a question
tells that of its image only at the beginning of the file. Category: the program's last function, where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r2t2_jax.datasets.files import Fields, find, numbered, parse_rows, read_archive_member, read_member
from r2t2_jax.datasets.record import Bad, Record, Source
from r2t2_jax.errors import R2T2Error

ANSWERS = frozenset(
    (
        *("yes", "no", *map(str, range(11)), "cube", "sphere", "cylinder", "small", "large", "rubber", "metal"),
        *("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    )
)


def read(folder: Path, split: str) -> Iterator[Record | Bad]:
    """One record a question."""
    root = read_archive_member(folder, "CLEVR_v1.0")
    path = find(root, f"questions/CLEVR_{split}_questions.json", what="questions file")

    def parse(row: Fields) -> Record:
        answer = row.text("answer")
        if answer not in ANSWERS:
            raise R2T2Error(f"{row.where}: {answer!r} is none of CLEVR's {len(ANSWERS)} answers")
        return Record(
            id=str(row.integer("question_index")),
            image=root / "images" / split / row.text("image_filename"),
            question=row.text("question"),
            answers=(answer,),
            category=_last_function(row.values.get("program")),
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(read_member(path, "questions", list), "question"), parse)


def _last_function(program: Any) -> str:
    """What a question asks for in the end: count, exist, query_color, ...; empty where no program is given."""
    last = program[-1] if isinstance(program, list) and program else None
    return str(last.get("function", "")) if isinstance(last, dict) else ""


SOURCE = Source(
    name="clevr",
    title="CLEVR",
    read=read,
    splits=("val", "train"),
    files="CLEVR_v1.0/questions/CLEVR_<split>_questions.json, CLEVR_v1.0/images/<split>/*.png",
    metric="clevr",
    licence="CC BY 4.0",
    home="https://cs.stanford.edu/people/jcjohns/clevr",
    role="reference",
    paper_size=5000,
)
