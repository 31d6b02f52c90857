"""TextVQA 0.5.1 (Singh et al. 2019), from textvqa.org; CC BY 4.0; images from Open Images.

    TextVQA_0.5.1_<split>.json      train_images/<image id>.jpg, including those of val

Test answers are hidden. A sample has all ten human answers, the most common first. The question contains no OCR tokens.
"""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.datasets.files import Fields, check_version, find_path, get_member, numbered, parse_rows, read_json
from r2t2_jax.datasets.readers.vqav2 import human_answers
from r2t2_jax.datasets.record import DatasetSpec, Record, Records

VERSION = "0.5.1"


def read(folder: Path, split: str) -> Records:
    """Yields one record per question."""
    path = find_path(folder, f"TextVQA_{VERSION}_{split}.json", what="annotations file")
    content = read_json(path, dict)
    check_version(path, content.get("dataset_version"), VERSION, "TextVQA")

    def parse(row: Fields) -> Record:
        return Record(
            id=str(row.integer("question_id")),
            image=folder / "train_images" / f"{row.text('image_id')}.jpg",
            question=row.text("question"),
            answers=human_answers(row, "answers"),
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(get_member(path, content, "data", list), "question"), parse)


DATASETS = (
    DatasetSpec(
        name="textvqa",
        title="TextVQA",
        read=read,
        splits=("val", "train"),
        files="TextVQA_0.5.1_<split>.json, train_images/*.jpg",
        metric="textvqa",
        license="CC BY 4.0; images: Open Images, CC BY 2.0",
        home="https://textvqa.org",
        role="evaluation",
        paper_size=5734,
    ),
)
