"""COCO-QA (Ren et al. 2015), from cs.toronto.edu/~mren/imageqa; released for research without a named license; COCO
images.

    <split>/questions.txt  answers.txt  img_ids.txt  types.txt; line i of each file describes question i
    train2014/COCO_train2014_<image id, 12 digits>.jpg and val2014/..., or train2017/<image id>.jpg and val2017/...

The dataset has no ids; `<split>/<line>` is used. Category: object, number, color or location.
"""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.datasets.files import (
    Fields,
    find_path,
    first_existing,
    numbered,
    parse_rows,
    read_text_lines,
    unpacked_root,
)
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error

TYPES = ("object", "number", "color", "location")
COLUMNS = ("questions", "answers", "img_ids", "types")
COCO = {"train": "train", "test": "val"}


def read(folder: Path, split: str) -> Records:
    """Yields one record per line of a split's four files."""
    texts = unpacked_root(folder, "cocoqa")
    paths = {name: find_path(texts, f"{split}/{name}.txt") for name in COLUMNS}
    columns = {name: read_text_lines(path) for name, path in paths.items()}
    lengths = {name: len(lines) for name, lines in columns.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{name}.txt {length}" for name, length in lengths.items())
        raise R2T2Error(f"{paths['questions'].parent}: the files differ in length ({counted}); is one cut off?")
    lines = (dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns.values(), strict=True))

    def parse(row: Fields) -> Record:
        """The record of a row."""
        image, kind = row.text("img_ids").strip(), row.text("types").strip()
        if not image.isdigit() or kind not in map(str, range(len(TYPES))):
            raise R2T2Error(f"{row.where}: image id {image!r} or type {kind!r} is not a number in range")
        place = COCO[split]
        return Record(
            id=f"{split}/{row.where.rpartition(' ')[2]}",
            image=first_existing(
                folder, f"{place}2014/COCO_{place}2014_{image:0>12}.jpg", f"{place}2017/{image:0>12}.jpg"
            ),
            question=row.text("questions").strip(),
            answers=(row.text("answers").strip(),),
            category=TYPES[int(kind)],
            split=split,
            where=row.where,
        )

    yield from parse_rows(paths["questions"], numbered(lines, "line"), parse)


DATASETS = (
    DatasetSpec(
        name="cocoqa",
        title="COCO-QA",
        read=read,
        splits=("test", "train"),
        files="<split>/questions.txt, answers.txt, img_ids.txt, types.txt; COCO images",
        metric="cocoqa_evalai",
        license="none named (research); COCO images: Flickr terms",
        home="https://www.cs.toronto.edu/~mren/imageqa/data/cocoqa",
        role="reference",
        paper_size=5000,
    ),
)
