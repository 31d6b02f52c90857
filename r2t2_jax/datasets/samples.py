"""A sample whose image stays encoded: five thousand scanned pages fit in memory, their pixels do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.images import decode_image, encoded_image
from r2t2_jax.datasets.record import Record, Source
from r2t2_jax.datasets.validate import subset, survey
from r2t2_jax.errors import R2T2Error


class StoredSample(Sample):
    """A `Sample` whose `image` is decoded anew each time somebody looks at it."""

    def __init__(self, encoded: bytes = b"", image: np.ndarray | None = None, **fields: Any) -> None:
        """Pixels may be given instead, as `dataclasses.replace` does."""
        super().__init__(image=np.zeros((0, 0, 3), np.uint8) if image is None else image, **fields)
        own = self.__dict__  # a frozen dataclass takes no assignment
        own["encoded"] = encoded
        if image is None:
            del own["image"]

    def __getattr__(self, name: str) -> np.ndarray:
        """The pixels, uint8 [height, width, 3]: the one attribute that is not stored."""
        if name != "image":
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        return decode_image(self.__dict__["encoded"])


def as_sample(record: Record, encoded: bytes) -> Sample:
    """The record as the project hands samples around."""
    return StoredSample(
        encoded,
        id=record.id,
        question=record.question,
        answers=record.answers,
        options=record.options,
        style=record.style,
        category=record.category,
        split=record.split,
    )


def official_samples(source: Source, folder: Path, split: str, n: int, seed: int) -> tuple[list[Sample], bool]:
    """N questions of a split; bad records are passed over.

    Returns:
        The samples and whether they have images; where no image file of the split is there, they have none.

    Raises:
        R2T2Error: a file is missing or wrong, no record is usable, or an image cannot be read.
    """
    split = split or (source.splits[0] if source.splits else "")
    try:
        found, images = survey(source, folder, split, skip_bad=True), True
    except R2T2Error:
        found, images = survey(source, folder, split, skip_bad=True, images=False), False
    chosen = subset(found.records, source, n, seed)
    return [as_sample(one, encoded_image(one.image, one.where) if images else b"") for one in chosen], images
