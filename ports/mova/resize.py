"""Resampling of maps, as the towers and the alignment of their features need it.

`bilinear` is `jax.image.resize`, which agrees with PyTorch where antialiasing does; its "nearest" does not.

Axis letters: H rows, W columns, C channels, N = G * G tokens of a square map, M tokens of the resampled one.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def bilinear(x: Float[Array, "H W C"], side: int) -> Float[Array, "side side C"]:
    """Half-pixel centres, no antialiasing, in float32, back in the dtype of `x`."""
    if x.shape[:2] == (side, side):
        return x
    wide = x.astype(jnp.float32)
    return jax.image.resize(wide, (side, side, x.shape[-1]), "linear", antialias=False).astype(x.dtype)


def nearest(x: Float[Array, "H W C"], side: int) -> Float[Array, "side side C"]:
    """Source index floor(i * in / out), the quotient rounded to float32 first as in PyTorch."""
    rows, columns = (_sources(size, side) for size in x.shape[:2])
    return x[rows][:, columns]


def _sources(size: int, side: int) -> np.ndarray:
    scaled = np.floor(np.arange(side, dtype=np.float32) * np.float32(size / side))
    return np.minimum(scaled.astype(np.int32), size - 1)


def align(tokens: Float[Array, "N C"], side: int) -> Float[Array, "M C"]:
    """Tokens of a square map (row-major) as a map of `side` x `side` tokens."""
    grid = math.isqrt(tokens.shape[0])
    if grid == side:
        return tokens
    return bilinear(tokens.reshape(grid, grid, -1), side).reshape(side * side, -1)


def pool(tokens: Float[Array, "N C"], side: int) -> Float[Array, "M C"]:
    """The mean of equal squares of a square map."""
    grid = math.isqrt(tokens.shape[0])
    step = grid // side
    return tokens.reshape(side, step, side, step, -1).mean(axis=(1, 3)).reshape(side * side, -1)
