"""`StoredSample`, a sample whose image stays encoded, because the pixels of a whole dataset do not fit in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.images import decode_image, encoded_image
from r2t2_jax.datasets.record import DatasetSpec, Record
from r2t2_jax.datasets.validate import choose_records, read_split
from r2t2_jax.errors import R2T2Error

OWN = ("", "jsonl")  # datasets whose images are decoded as a viewer shows them, not as the authors' code reads them


class StoredSample(Sample):
    """A `Sample` that decodes its image on each access to `image`; without an encoded image it has none."""

    def __init__(self, encoded: bytes | None = None, image: np.ndarray | None = None, **fields: Any) -> None:
        """`image` replaces `encoded` where pixels are passed, as `dataclasses.replace` does."""
        super().__init__(image=image, **fields)
        attributes = self.__dict__  # a frozen dataclass allows no assignment
        attributes["encoded"] = encoded
        if image is None and encoded is not None:
            del attributes["image"]

    def __getattr__(self, name: str) -> np.ndarray:
        """The pixels, uint8 [height, width, 3], for `image`, the only attribute that is not stored."""
        if name != "image":
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        own = self.dataset in OWN
        return decode_image(self.__dict__["encoded"], upright=own, on_white=own)


def image_bytes(sample: Sample) -> bytes:
    """Bytes that identify the image of a sample: as encoded where it is stored so, else shape and pixels.

    A sample without an image has none.
    """
    if isinstance(sample, StoredSample) and "image" not in sample.__dict__:
        return bytes(sample.__dict__["encoded"])
    if sample.image is None:
        return b""
    return repr(sample.image.shape).encode() + np.ascontiguousarray(sample.image).tobytes()


def to_sample(record: Record, encoded: bytes | None, dataset: str = "") -> Sample:
    """The record of a dataset as a sample with the given encoded image, or with none."""
    return StoredSample(
        encoded,
        id=record.id,
        question=record.question,
        answers=record.answers,
        options=record.options,
        style=record.style,
        category=record.category,
        split=record.split,
        dataset=dataset,
        context=record.context,
    )


def load_official_samples(
    dataset: DatasetSpec, folder: Path, split: str, n: int, seed: int
) -> tuple[list[Sample], bool]:
    """Read n questions of a split from its official files; invalid records are skipped.

    Returns:
        The samples, and whether they have images. They have none if no image file of the split exists.

    Raises:
        R2T2Error: a file is missing or malformed, no record is usable, or an image cannot be read.
    """
    split = split or (dataset.splits[0] if dataset.splits else "")
    try:
        validated, images = read_split(dataset, folder, split, skip_bad=True), True
    except R2T2Error:
        validated, images = read_split(dataset, folder, split, skip_bad=True, images=False), False
    records = choose_records(validated.records, dataset, n, seed)
    encoded = (encoded_image(record.image, record.where) if images else b"" for record in records)
    return [to_sample(record, image, dataset.name) for record, image in zip(records, encoded, strict=True)], images
