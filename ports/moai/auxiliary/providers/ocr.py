"""Lines of text recognized by RapidOCR, the ONNX build of the PaddleOCR models that MoAI used.

As upstream does, the engine gets the image at the size of the model's images and with its channels in the order red,
green, blue, although it takes them for blue, green, red.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ports.moai.auxiliary.providers.protocol import package_version, require
from ports.moai.auxiliary.record import AuxRecord, TextLine, fit


@dataclass(frozen=True)
class TextReader:
    """`engine(image)` returns an object with `txts` and `scores`, both `None` if there is no text.

    `size` is the side of the image that it gets, in pixels.
    """

    engine: Callable[[np.ndarray], Any]
    size: int = 490
    fingerprint: str = "rapidocr"

    @classmethod
    def load(cls, size: int) -> TextReader:
        """The provider with the package's models.

        Raises:
            R2T2Error: rapidocr or its runtime is not installed.
        """
        require("onnxruntime", "reading text")
        package = require("rapidocr", "reading text")
        return cls(package.RapidOCR(), size, f"rapidocr {package_version('rapidocr')}: RGB, {size} px")

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """The record with all lines and their scores; the verbalization uses those of 0.85 or more."""
        result = self.engine(fit(image, self.size))
        texts, scores = result.txts or (), result.scores or ()
        lines = tuple(TextLine(str(text), float(score)) for text, score in zip(texts, scores, strict=True))
        return dataclasses.replace(record, lines=lines)
