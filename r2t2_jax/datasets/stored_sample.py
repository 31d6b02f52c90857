"""A sample whose image stays encoded: five thousand scanned pages fit in memory, their pixels do not."""

from __future__ import annotations

from typing import Any

import numpy as np

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.images import decode_image
from r2t2_jax.datasets.record import Record


class StoredSample(Sample):
    """A `Sample` whose `image` is decoded anew each time somebody looks at it."""

    def __init__(self, encoded: bytes, **fields: Any) -> None:
        super().__init__(image=np.zeros((0, 0, 3), np.uint8), **fields)
        own = self.__dict__  # a frozen dataclass takes no assignment
        del own["image"]
        own["encoded"] = encoded

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
