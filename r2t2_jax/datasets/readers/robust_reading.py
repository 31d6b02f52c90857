"""DocVQA and ST-VQA, two challenges of the Robust Reading Competition, rrc.cvc.uab.es.

DocVQA, single page (Mathew et al. 2021), challenge 17; for research, after registration. The pages are from the UCSF
Industry Documents Library. Category: the first question type, if the file states any.

    <split>_v1.0.json or <split>_v1.0_withQT.json      documents/<document>_<page>.png (or <split>/documents)

ST-VQA, scene text (Biten et al. 2019), challenge 11; for research, because the images are from seven other datasets
with their own terms. There is no official validation split. Category: the dataset of the image.

    train_task_3.json (or else 2 or 1)      images at each record's file_path, such as coco-text/COCO_train2014_....jpg

Test answers of both are hidden.
"""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.datasets.files import (
    Fields,
    check_version,
    find_path,
    first_existing,
    get_member,
    numbered,
    parse_rows,
    read_json,
    read_member,
)
from r2t2_jax.datasets.record import DatasetSpec, Record, Records


def read_docvqa(folder: Path, split: str) -> Records:
    """Yields one record per question of DocVQA."""
    names = (f"{split}_v1.0.json", f"{split}_v1.0_withQT.json")
    path = find_path(
        folder, *names, *(f"{split}/{name}" for name in names), *(f"spdocvqa_qas/{name}" for name in names)
    )
    content = read_json(path, dict)
    check_version(path, content.get("dataset_version"), "1.0", "DocVQA")

    def parse(row: Fields) -> Record:
        """The record of a row."""
        image, kinds = row.text("image"), row.values.get("question_types")
        return Record(
            id=str(row.integer("questionId")),
            image=first_existing(folder, image, f"{split}/{image}", f"spdocvqa_images/{Path(image).name}"),
            question=row.text("question"),
            answers=tuple(row.texts("answers")),
            category=str(kinds[0]) if isinstance(kinds, list) and kinds else "",
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(get_member(path, content, "data", list), "question"), parse)


def read_stvqa(folder: Path, split: str) -> Records:
    """Yields one record per question of ST-VQA."""
    path = find_path(folder, *(f"{split}_task_{task}.json" for task in (3, 2, 1)))

    def parse(row: Fields) -> Record:
        """The record of a row."""
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
        read=read_stvqa,
        splits=("train",),
        files="train_task_3.json, images by file_path",
        metric="anls",
        license="research; images of seven sets under their terms",
        home="https://rrc.cvc.uab.es/?ch=11",
        role="reference",
        paper_size=5000,
    ),
    DatasetSpec(
        name="docvqa",
        title="DocVQA, single page",
        read=read_docvqa,
        splits=("val", "train"),
        files="<split>_v1.0.json (or _withQT), documents/*.png",
        metric="anls",
        license="research, after registration (UCSF Industry Documents)",
        home="https://www.docvqa.org",
        role="reference",
        paper_size=5000,
    ),
)
