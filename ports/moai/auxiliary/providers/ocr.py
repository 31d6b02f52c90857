"""Lines of text by RapidOCR, the ONNX build of the PaddleOCR models that MoAI used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ports.moai.auxiliary.providers.protocol import needed
from ports.moai.auxiliary.record import AuxRecord, Line


@dataclass(frozen=True)
class TextReader:
    """`engine(image)` gives an object with `txts` and `scores`, both `None` where there is no text."""

    engine: Callable[[np.ndarray], Any]
    fingerprint: str = "rapidocr"

    @classmethod
    def load(cls, size: int) -> TextReader:
        """With the package's own models; text is read at the image's own size, not at `size`.

        Raises:
            R2T2Error: rapidocr or its runtime is not installed.
        """
        needed("onnxruntime", "reading text")
        package = needed("rapidocr", "reading text")
        return cls(package.RapidOCR(), f"rapidocr:{getattr(package, '__version__', 'unknown')}")

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """All lines with how sure the reader is; the verbalisation tells those from 0.85 on."""
        found = self.engine(image[..., ::-1])  # it takes the channels as blue, green, red
        texts, scores = found.txts or (), found.scores or ()
        lines = tuple(Line(str(text), float(score)) for text, score in zip(texts, scores, strict=True))
        return dataclasses.replace(record, lines=lines)
