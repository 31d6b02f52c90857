"""Reads, checks and decodes images."""

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
_CACHE_SIZE = 64  # consecutive questions are often about the same image


def encoded_image(image: Path | bytes, where: str) -> bytes:
    """The encoded bytes of an image that decodes without error.

    Args:
        image: path of the file, or its bytes.
        where: position of the record that refers to the image, for errors.

    Raises:
        R2T2Error: the file is missing, is not an image, or is damaged.
    """
    name = str(image) if isinstance(image, Path) else "embedded in the file"
    try:
        return _checked_file(image) if isinstance(image, Path) else _checked(image)
    except FileNotFoundError as error:
        raise R2T2Error(f"{where}: cannot read image {name}: it does not exist") from error
    except _BROKEN as error:
        cause = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise R2T2Error(f"{where}: cannot read image {name}: {cause}") from error


def decode_image(encoded: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels. Transparency is dropped; palette and grayscale images are converted."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


@lru_cache(_CACHE_SIZE)
def _checked_file(path: Path) -> bytes:
    return _checked(path.read_bytes())


def _checked(encoded: bytes) -> bytes:
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
    return encoded
