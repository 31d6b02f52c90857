"""Layers that the towers and the adapter share: the MLP of EVA-02, resampling of maps, 2-D rotary positions.

Axis letters: T tokens, D width, N and M tokens of a square map, C channels, H heads, d head width.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ports.common.checkpoint.mapping import Layers, Leaf, linear_leaves, norm_leaves
from ports.common.layers.linear import LayerNorm, linear


class NormedSwiGLU(nnx.Module):
    """down_proj(ffn_ln(silu(gate_proj(x)) * up_proj(x))), all with biases: EVA-02's MLP."""

    def __init__(self, width: int, hidden: int, eps: float, rngs: nnx.Rngs, dtype: str):
        self.gate_proj = linear(width, hidden, rngs, dtype)
        self.up_proj = linear(width, hidden, rngs, dtype)
        self.ffn_ln = LayerNorm(hidden, eps, dtype)
        self.down_proj = linear(hidden, width, rngs, dtype)

    def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        return self.down_proj(self.ffn_ln(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x)))


def normed_swiglu_leaves(ours: str, theirs: str, layers: Layers = None) -> dict[str, Leaf]:
    """Parameters of `NormedSwiGLU`: upstream's w1, w2, w3 and ffn_ln."""
    leaves = norm_leaves(f"{ours}/ffn_ln", f"{theirs}.ffn_ln", layers)
    for part, name in (("gate_proj", "w1"), ("up_proj", "w2"), ("down_proj", "w3")):
        leaves |= linear_leaves(f"{ours}/{part}", f"{theirs}.{name}", layers=layers)
    return leaves


def bilinear(x: Float[Array, "height width C"], side: int) -> Float[Array, "side side C"]:
    """Half-pixel centers, no antialiasing, in float32; returned in the dtype of `x`."""
    if x.shape[:2] == (side, side):
        return x
    wide = x.astype(jnp.float32)
    return jax.image.resize(wide, (side, side, x.shape[-1]), "linear", antialias=False).astype(x.dtype)


def nearest(x: Float[Array, "height width C"], side: int) -> Float[Array, "side side C"]:
    """Source index floor(i * in / out), the quotient rounded to float32 first as in PyTorch."""
    rows, columns = (_source_indices(size, side) for size in x.shape[:2])
    return x[rows][:, columns]


def _source_indices(size: int, side: int) -> np.ndarray:
    scaled = np.floor(np.arange(side, dtype=np.float32) * np.float32(size / side))
    return np.minimum(scaled.astype(np.int32), size - 1)


def align(tokens: Float[Array, "N C"], side: int) -> Float[Array, "M C"]:
    """Tokens of a square map (row-major), resampled to a map of `side` x `side` tokens."""
    grid = math.isqrt(tokens.shape[0])
    if grid == side:
        return tokens
    return bilinear(tokens.reshape(grid, grid, -1), side).reshape(side * side, -1)


def pool(tokens: Float[Array, "N C"], side: int) -> Float[Array, "M C"]:
    """The means over equal squares of a square map, `side` x `side` of them."""
    grid = math.isqrt(tokens.shape[0])
    step = grid // side
    return tokens.reshape(side, step, side, step, -1).mean(axis=(1, 3)).reshape(side * side, -1)


def rotary_angles(grid: int, reference: int, width: int) -> Float[Array, "N d"]:
    """The rotation angle of every entry of a head at every position of the map.

    Pair j of an axis is rotated by `position / grid * reference * 10000^(-4 j / d)`, j = 0 .. d/4 - 1.

    Args:
        grid: side of the map.
        reference: positions are scaled to [0, reference).
        width: head width d, a multiple of 4.
    """
    frequencies = 10000.0 ** (-jnp.arange(0, width // 2, 2, dtype=jnp.float32) / (width // 2))  # [d/4]
    positions = jnp.arange(grid, dtype=jnp.float32) / grid * reference
    angles = jnp.repeat(positions[:, None] * frequencies[None], 2, axis=1)  # [grid, d/2]
    rows = jnp.broadcast_to(angles[:, None], (grid, grid, width // 2))
    columns = jnp.broadcast_to(angles[None], (grid, grid, width // 2))
    return jnp.concatenate([rows, columns], axis=-1).reshape(grid * grid, width)


def rotate_pairs(x: Float[Array, "N H d"], angles: Float[Array, "N d"]) -> Float[Array, "N H d"]:
    """Rotate the pairs (x_0, x_1), (x_2, x_3), ... of every head, in float32; returned in the dtype of `x`."""
    wide = x.astype(jnp.float32)
    pairs = wide.reshape(*x.shape[:-1], -1, 2)
    rotated = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)  # (a, b) -> (-b, a)
    return (wide * jnp.cos(angles)[:, None] + rotated * jnp.sin(angles)[:, None]).astype(x.dtype)
