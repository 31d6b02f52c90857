"""One image, four times, as the towers want it: padded to a square, resized, normalised. On PIL and NumPy.

Each processor of upstream pads with its own colour. Vary, Co-DETR and SAM share one image, normalised as Vary's.

Axis letters: G patches along a side, P patches with padding.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ports.mova.config import CLIP_MEAN, CLIP_STD, MovaConfig
from ports.mova.modeling import Views

Pixels = UInt8[np.ndarray, "height width 3"]


def pad_square(image: Pixels, mean: tuple[float, ...]) -> UInt8[np.ndarray, "side side 3"]:
    """The image in the middle of a square of colour int(255 * mean)."""
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [int(part * 255) for part in mean]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def normalised(
    image: Pixels, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[np.ndarray, "size size 3"]:
    """Padded, resized bicubically as uint8, each channel brought to the towers' scale."""
    square = Image.fromarray(pad_square(image, mean))
    resized = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return (resized * np.float32(1 / 255) - np.array(mean, np.float32)) / np.array(std, np.float32)


def flattened_patches(
    image: Pixels, max_patches: int, size: int, mean: tuple[float, ...] = CLIP_MEAN
) -> Float[np.ndarray, "P 2+size*size*3"]:
    """Pix2Struct's patches: row and column, counted from 1, then the pixels; rows of zeros fill up to `max_patches`.

    The image is padded and standardised whole, then resized so that at most `max_patches` fit. The number of rows is
    upstream's float64 expression, which is one too small for some sizes.
    """
    square = pad_square(image, mean).astype(np.float32)
    spread = max(square.std(), 1 / math.sqrt(square.size))
    standard = (square - square.mean()) / spread
    rows, columns = patch_grid(square.shape[0], square.shape[1], max_patches, size)
    target = (columns * size, rows * size)  # PIL gives the width first
    resized = np.stack(
        [np.asarray(Image.fromarray(standard[..., c]).resize(target, Image.Resampling.BILINEAR)) for c in range(3)],
        axis=-1,
    )
    cut = resized.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(rows * columns, -1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    numbered = np.concatenate([row[:, None] + 1, column[:, None] + 1, cut], axis=1).astype(np.float32)
    return np.pad(numbered, ((0, max_patches - len(numbered)), (0, 0)))


def patch_grid(height: int, width: int, max_patches: int, size: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    scale = math.sqrt(max_patches * (size / height) * (size / width))
    rows, columns = (math.floor(scale * side / size) for side in (height, width))
    return max(min(rows, max_patches), 1), max(min(columns, max_patches), 1)


def views_of(image: Pixels, config: MovaConfig) -> Views:
    """The four views of one image, on the device."""
    tile = config.clip.image_size
    return Views(
        clip=jnp.asarray(normalised(image, tile, CLIP_MEAN, CLIP_STD)),
        dinov2=jnp.asarray(normalised(image, tile, config.dinov2_mean, config.dinov2_std)),
        high=jnp.asarray(normalised(image, config.high_size, config.high_mean, config.high_std)),
        patches=jnp.asarray(flattened_patches(image, config.max_patches, config.pix2struct.patch_size)),
    )
