"""CLEVR v1.0 (Johnson et al. 2017), from cs.stanford.edu/people/jcjohns/clevr; CC BY 4.0.

    CLEVR_v1.0/questions/CLEVR_<split>_questions.json      CLEVR_v1.0/images/<split>/CLEVR_<split>_<6 digits>.png

Test answers are not published. The id is the question index. The image is found by its file name, because question
index and image index agree only at the beginning of the file. Category: the last function of the program, if any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r2t2_jax.datasets.files import Fields, find_path, numbered, parse_rows, read_member, unpacked_root
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error

ANSWERS = frozenset(
    (
        *("yes", "no", *map(str, range(11)), "cube", "sphere", "cylinder", "small", "large", "rubber", "metal"),
        *("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    )
)


def read(folder: Path, split: str) -> Records:
    """Yields one record per question."""
    root = unpacked_root(folder, "CLEVR_v1.0")
    path = find_path(root, f"questions/CLEVR_{split}_questions.json", what="questions file")

    def parse(row: Fields) -> Record:
        """The record of a row."""
        answer = row.text("answer")
        if answer not in ANSWERS:
            raise R2T2Error(f"{row.where}: {answer!r} is not one of CLEVR's {len(ANSWERS)} answers")
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
    """The last function of the question's program: count, exist, query_color, ...; empty without a program."""
    last = program[-1] if isinstance(program, list) and program else None
    return str(last.get("function", "")) if isinstance(last, dict) else ""


DATASETS = (
    DatasetSpec(
        name="clevr",
        title="CLEVR",
        read=read,
        splits=("val", "train"),
        files="CLEVR_v1.0/questions/CLEVR_<split>_questions.json, CLEVR_v1.0/images/<split>/*.png",
        metric="clevr_evalai",
        license="CC BY 4.0",
        home="https://cs.stanford.edu/people/jcjohns/clevr",
        role="reference",
        paper_size=5000,
    ),
)
