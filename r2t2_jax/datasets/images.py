"""Reads, checks and decodes images.

Only regular files of the formats in `FORMATS` are opened, and their sizes are known before anything is decoded: Pillow
hands other formats, such as PostScript, to external programs.
"""

from __future__ import annotations

import io
import stat
import threading
import warnings
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_files import content_kind

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
LISTED = ", ".join(FORMATS)
MAX_BYTES = 1 << 28  # of an encoded image
MAX_PIXELS = 178_956_970  # 512 MiB of RGB pixels; Pillow refuses more
_HEADER_LOCK = threading.Lock()  # `catch_warnings` is not safe in threads
_CACHE_SIZE = 64  # consecutive questions are often about the same image


@overload
def encoded_image(image: None, where: str) -> None: ...
@overload
def encoded_image(image: Path | bytes, where: str) -> bytes: ...
def encoded_image(image: Path | bytes | None, where: str) -> bytes | None:
    """The encoded bytes of an image that decodes without error; `None` for no image.

    Args:
        image: path of the file, its bytes, or `None`.
        where: position of the record that refers to the image, for errors.

    Raises:
        R2T2Error: the file is missing, is not an image, or is damaged.
    """
    if image is None:
        return None
    name = str(image) if isinstance(image, Path) else "embedded in the file"
    try:
        return _checked_file(image) if isinstance(image, Path) else _checked(image)
    except FileNotFoundError as error:
        raise R2T2Error(f"{where}: cannot read image {name}: it does not exist") from error
    except R2T2Error as error:
        raise R2T2Error(f"{where}: cannot read image {name}: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise R2T2Error(f"{where}: cannot read image {name}: {getattr(error, 'strerror', None) or error}") from error


def open_image(encoded: bytes) -> Image.Image:
    """An image whose format, bytes and pixels are permitted; its pixels are not decoded yet.

    Raises:
        R2T2Error: it is no image of a format in `FORMATS`, or is too large.
    """
    if len(encoded) > MAX_BYTES:
        raise R2T2Error(f"it has {len(encoded):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        with _HEADER_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images are refused below, where they are too large
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError as error:
        kind = content_kind(encoded)
        raise R2T2Error(f"not an image {f'but {kind}' if kind else f'of the formats {LISTED}'}") from error
    except Image.DecompressionBombError as error:
        raise R2T2Error(f"it has more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # decoders of damaged files raise many types
        raise R2T2Error(f"its header is damaged ({_cause(error)})") from error
    if image.width * image.height > MAX_PIXELS:
        raise R2T2Error(f"it has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read")
    return image


def decode_image(encoded: bytes, upright: bool = True, on_white: bool = False) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels of an encoded image; see `rgb_pixels`.

    Raises:
        R2T2Error: as `open_image`, or the pixels are damaged.
    """
    with open_image(encoded) as image:
        return decode_opened(image, upright, on_white)


def decode_opened(
    image: Image.Image, upright: bool = True, on_white: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels of an image from `open_image`; see `rgb_pixels`.

    Raises:
        R2T2Error: the pixels are damaged.
    """
    try:
        return rgb_pixels(image, upright, on_white)
    except Exception as error:
        raise R2T2Error(f"it is damaged ({_cause(error)})") from error


def rgb_pixels(image: Image.Image, upright: bool = True, on_white: bool = False) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels. Palette and grayscale images are converted; 16-bit, 32-bit and float images are scaled to 8 bits.

    Args:
        image: an open image.
        upright: turn the image as its EXIF orientation says, as viewers do.
        on_white: put transparent parts on white, as viewers do; otherwise transparency is dropped.
    """
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return np.asarray(_eight_bits(image).convert("RGB"))
    if on_white and image.has_transparency_data:
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return np.asarray(image.convert("RGB"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grayscale image of wide integers or floats in 8 bits.

    White is 65535 for 16-bit images. The format of 32-bit images does not state it; there it is the smallest of 1
    (floats only), 255, 65535 and the largest finite value that no finite value exceeds. Negative values and NaN are
    black.
    """
    values = np.asarray(image, np.float64)
    largest = values.max(where=np.isfinite(values), initial=0.0)
    levels = (65535,) if image.mode.startswith("I;16") else (1, 255, 65535) if image.mode == "F" else (255, 65535)
    white = next((level for level in levels if largest <= level), largest)
    values = np.nan_to_num(values, nan=0.0, posinf=white).clip(0, white)
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _checked_file(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise R2T2Error("it is no regular file")
    if status.st_size > MAX_BYTES:
        raise R2T2Error(f"it has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read")
    return _read_checked(path, status.st_mtime_ns, status.st_size)


@lru_cache(_CACHE_SIZE)
def _read_checked(path: Path, modified: int, size: int) -> bytes:
    """The checked bytes of a file. A replaced file has another time of modification or size, and is read again."""
    return _checked(path.read_bytes())


def _checked(encoded: bytes) -> bytes:
    with open_image(encoded) as image:
        try:
            image.load()
        except Exception as error:
            raise R2T2Error(f"it is damaged ({_cause(error)})") from error
    return encoded
