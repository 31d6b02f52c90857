"""A-OKVQA v1.0 (Schwenk et al. 2022), from allenai.org/project/a-okvqa; Apache-2.0, COCO images.

    aokvqa_v1p0_<split>.json      coco/<split>2017/<image id, 12 digits>.jpg

The files contain two datasets. `aokvqa` asks for one of four choices. `aokvqa_direct` asks for a direct answer; a
sample has all ten human answers, and questions marked as difficult to answer directly are left out. Test answers are
hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from r2t2_jax.datasets.files import Fields, find_path, numbered, option_letter, parse_rows, read_json
from r2t2_jax.datasets.readers.vqav2 import human_answers
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error

CHOICES = 4


def read(folder: Path, split: str) -> Records:
    """Yields one record per question, with four choices."""
    return _read(folder, split, _choice)


def read_direct(folder: Path, split: str) -> Records:
    """Yields one record per question with direct answers."""
    return _read(folder, split, _direct)


def _read(folder: Path, split: str, finish: Callable[[Record, Fields], Record | None]) -> Records:
    path = find_path(folder, f"aokvqa_v1p0_{split}.json")

    def parse(row: Fields) -> Record | None:
        """The record of a row; `None` for a row that is left out."""
        record = Record(
            id=row.text("question_id"),
            image=folder / "coco" / f"{split}2017" / f"{row.integer('image_id'):012d}.jpg",
            question=row.text("question"),
            answers=(),
            split=split,
            where=row.where,
        )
        return finish(record, row)

    yield from parse_rows(path, numbered(read_json(path, list), "question"), parse)


def _choice(record: Record, row: Fields) -> Record:
    choices = row.texts("choices")
    if len(choices) != CHOICES:
        raise R2T2Error(f"{row.where}: expected {CHOICES} choices, found {len(choices)}")
    answer = option_letter(row.integer("correct_choice_idx"), choices, row.where)
    return replace(record, options=tuple(choices), answers=(answer,), style="letter")


def _direct(record: Record, row: Fields) -> Record | None:
    difficult = row.values.get("difficult_direct_answer")
    return None if difficult else replace(record, answers=human_answers(row, "direct_answers"))


_MULTIPLE_CHOICE = DatasetSpec(
    name="aokvqa",
    title="A-OKVQA, multiple choice",
    read=read,
    splits=("val", "train"),
    files="aokvqa_v1p0_<split>.json, coco/<split>2017/*.jpg",
    metric="aokvqa_letter",
    license="Apache-2.0; COCO images: Flickr terms",
    home="https://allenai.org/project/a-okvqa",
    role="reference",
    paper_size=5000,
)
DATASETS = (
    _MULTIPLE_CHOICE,
    replace(
        _MULTIPLE_CHOICE,
        name="aokvqa_direct",
        title="A-OKVQA, direct answers",
        read=read_direct,
        metric="aokvqa_direct_evalai",
    ),
)
