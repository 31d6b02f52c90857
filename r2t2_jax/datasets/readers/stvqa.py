"""ST-VQA, scene text (Biten et al. 2019), from rrc.cvc.uab.es, challenge 11; for research, because the images are from
seven other datasets with their own terms.

    train_task_3.json (or else 2 or 1)      images at each record's file_path, such as coco-text/COCO_train2014_....jpg

Test answers are hidden and there is no official validation split. Category: the dataset of the image.
"""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.datasets.files import Fields, find_path, numbered, parse_rows, read_member
from r2t2_jax.datasets.record import DatasetSpec, Record, Records


def read(folder: Path, split: str) -> Records:
    """Yields one record per question."""
    path = find_path(folder, *(f"{split}_task_{task}.json" for task in (3, 2, 1)))

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


DATASETS = (
    DatasetSpec(
        name="stvqa",
        title="ST-VQA",
        read=read,
        splits=("train",),
        files="train_task_3.json, images by file_path",
        metric="anls",
        license="research; images of seven sets under their terms",
        home="https://rrc.cvc.uab.es/?ch=11",
        role="reference",
        paper_size=5000,
    ),
)
