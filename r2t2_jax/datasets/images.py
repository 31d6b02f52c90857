"""Images: encoded bytes that are known to decode, and pixels."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from r2t2_jax.errors import R2T2Error

# SyntaxError: a broken PNG chunk; ValueError: a palette or size out of range.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_KEPT = 64  # consecutive questions are often about the same image


def encoded_image(image: Path | bytes, where: str) -> bytes:
    """The image as it is stored, after a look that it can be decoded whole.

    Raises:
        R2T2Error: the file is missing, or is no image, or a broken one; `where` tells which record wants it.
    """
    name = str(image) if isinstance(image, Path) else "of its own"
    try:
        return _checked_file(image) if isinstance(image, Path) else _checked(image)
    except FileNotFoundError as error:
        raise R2T2Error(f"{where}: cannot read image {name}: it is not there") from error
    except _BROKEN as error:
        cause = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise R2T2Error(f"{where}: cannot read image {name}: {cause}") from error


def decode_image(encoded: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels. Transparency is dropped, palettes and grey are spread, as every model here expects."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


@lru_cache(_KEPT)
def _checked_file(path: Path) -> bytes:
    return _checked(path.read_bytes())


def _checked(encoded: bytes) -> bytes:
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
    return encoded
