"""Visual7W telling (Zhu et al. 2016), from ai.stanford.edu/~yukez/visual7w; MIT license (toolkit); images
from Visual Genome, CC BY 4.0.

    dataset_v7w_telling.json (the toolkit calls it visual7w-telling/dataset.json)      images/v7w_<image id>.jpg

The file lists the answer and three wrong choices. The four options are in a random order seeded by the question id, so
that it never changes. Category: what, where, when, who, why or how.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from r2t2_jax.datasets.files import Fields, find_path, first_existing, numbered, option_letter, parse_rows, read_member
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error

WRONG_CHOICES = 3


def read(folder: Path, split: str) -> Records:
    """Yields one record per question on the images of a split."""
    path = find_path(folder, "dataset_v7w_telling.json", "visual7w-telling/dataset.json", "dataset.json")
    images = [image for image in read_member(path, "images", list) if _of_split(image, split)]
    rows = ({"image": image, "pair": pair} for image in images for pair in _pairs(image))

    def parse(row: Fields) -> Record:
        """The record of a row."""
        image = row.object("image").text("filename")
        pair = row.object("pair")
        choices = pair.texts("multiple_choices")
        if len(choices) != WRONG_CHOICES:
            raise R2T2Error(f"{row.where}: expected {WRONG_CHOICES} wrong choices, found {len(choices)}")
        identifier = pair.integer("qa_id")
        options = [pair.text("answer"), *choices]
        order = np.random.default_rng(identifier).permutation(len(options)).tolist()
        return Record(
            id=str(identifier),
            image=first_existing(folder, f"images/{image}", image),
            question=pair.text("question"),
            options=tuple(options[i] for i in order),
            answers=(option_letter(order.index(0), options, row.where),),
            style="letter",
            category=pair.text("type"),
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(rows, f"{split} question"), parse)


def _of_split(image: Any, split: str) -> bool:
    return isinstance(image, dict) and image.get("split") == split


def _pairs(image: dict[str, Any]) -> list[Any]:
    """The questions about an image; `[None]`, which `parse_rows` reports as invalid, if `qa_pairs` is not a list."""
    pairs = image.get("qa_pairs")
    return pairs if isinstance(pairs, list) else [None]


DATASETS = (
    DatasetSpec(
        name="visual7w",
        title="Visual7W telling",
        read=read,
        splits=("test", "train", "val"),
        files="dataset_v7w_telling.json, images/v7w_*.jpg",
        metric="visual7w_letter",
        license="MIT (toolkit); Visual Genome images: CC BY 4.0",
        home="http://ai.stanford.edu/~yukez/visual7w",
        role="reference",
        paper_size=5000,
    ),
)
