"""Images and segment maps brought to the size in which the model sees them."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def fit(image: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resized by PIL's bilinear filter, whatever the aspect ratio, as in upstream's benchmarks."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
