"""Lines of text recognized by RapidOCR, the ONNX build of the PaddleOCR models that MoAI used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ports.moai.auxiliary.providers.protocol import require
from ports.moai.auxiliary.record import AuxRecord, TextLine


@dataclass(frozen=True)
class TextReader:
    """`engine(image)` returns an object with `txts` and `scores`, both `None` if there is no text."""

    engine: Callable[[np.ndarray], Any]
    fingerprint: str = "rapidocr"

    @classmethod
    def load(cls, size: int) -> TextReader:
        """The provider with the package's models; text is read at the image's own size, not at `size`.

        Raises:
            R2T2Error: rapidocr or its runtime is not installed.
        """
        require("onnxruntime", "reading text")
        package = require("rapidocr", "reading text")
        return cls(package.RapidOCR(), f"rapidocr:{getattr(package, '__version__', 'unknown')}")

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """The record with all lines and their scores; the verbalization uses those of 0.85 or more."""
        result = self.engine(image[..., ::-1])  # the engine takes channels in the order blue, green, red
        texts, scores = result.txts or (), result.scores or ()
        lines = tuple(TextLine(str(text), float(score)) for text, score in zip(texts, scores, strict=True))
        return dataclasses.replace(record, lines=lines)
