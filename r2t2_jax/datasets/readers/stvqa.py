"""ST-VQA, scene text (Biten et al. 2019), from rrc.cvc.uab.es, challenge 11; the images are of seven other sets under
their own terms, so the whole is for research.

    train_task_3.json (or else 2 or 1)      images at each record's file_path, such as coco-text/COCO_train2014_....jpg

Test answers are hidden and there is no official validation split. Category: the set the image is of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from r2t2_jax.datasets.files import Fields, find, numbered, parse_rows, read_member
from r2t2_jax.datasets.record import Bad, Record, Source


def read(folder: Path, split: str) -> Iterator[Record | Bad]:
    """One record a question."""
    path = find(folder, *(f"{split}_task_{task}.json" for task in (3, 2, 1)))

    def parse(row: Fields) -> Record:
        return Record(
            id=str(row.integer("question_id")),
            image=folder / row.text("file_path"),
            question=row.text("question"),
            answers=tuple(row.texts("answers")),
            category=row.text("dataset"),
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(read_member(path, "data", list), "question"), parse)


SOURCE = Source(
    name="stvqa",
    title="ST-VQA",
    read=read,
    splits=("train",),
    files="train_task_3.json, images by file_path",
    metric="anls",
    licence="research; images of seven sets under their terms",
    home="https://rrc.cvc.uab.es/?ch=11",
    role="reference",
    paper_size=5000,
)
