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

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_files import content_kind

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
LISTED = ", ".join(FORMATS)
MAX_BYTES = 1 << 28  # of an encoded image
MAX_PIXELS = 178_956_970  # 512 MiB of RGB pixels; Pillow refuses more
_HEADER_LOCK = threading.Lock()  # `catch_warnings` is not safe in threads
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


def decode_image(encoded: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels. Transparency is dropped; palette and grayscale images are converted.

    Raises:
        R2T2Error: as `open_image`, or the pixels are damaged.
    """
    with open_image(encoded) as image:
        try:
            return np.asarray(image.convert("RGB"))
        except Exception as error:
            raise R2T2Error(f"it is damaged ({_cause(error)})") from error


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@lru_cache(_CACHE_SIZE)
def _checked_file(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise R2T2Error("it is no regular file")
    if status.st_size > MAX_BYTES:
        raise R2T2Error(f"it has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read")
    return _checked(path.read_bytes())


def _checked(encoded: bytes) -> bytes:
    with open_image(encoded) as image:
        try:
            image.load()
        except Exception as error:
            raise R2T2Error(f"it is damaged ({_cause(error)})") from error
    return encoded
