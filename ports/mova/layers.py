"""The feed-forward of EVA-02, in Co-DETR and in the adapter: gated, with a norm before the way down.

Axis letters: T tokens, D width.
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


class GatedNormed(nnx.Module):
    """down(norm(silu(gate(x)) * up(x))), all with biases."""

    def __init__(self, width: int, hidden: int, eps: float, rngs: nnx.Rngs, dtype: str):
        self.gate = linear(width, hidden, rngs, dtype)
        self.up = linear(width, hidden, rngs, dtype)
        self.norm = LayerNorm(hidden, eps, dtype)
        self.down = linear(hidden, width, rngs, dtype)

    def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        return self.down(self.norm(jax.nn.silu(self.gate(x)) * self.up(x)))


def gated_leaves(ours: str, theirs: str, layers: Layers = None) -> dict[str, Leaf]:
    """Parameters of `GatedNormed`: upstream's w1, w2, w3 and ffn_ln."""
    leaves = norm_leaves(f"{ours}/norm", f"{theirs}.ffn_ln", layers)
    for part, name in (("gate", "w1"), ("up", "w2"), ("down", "w3")):
        leaves |= linear_leaves(f"{ours}/{part}", f"{theirs}.{name}", layers=layers)
    return leaves


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


def angles(grid: int, reference: int, width: int) -> Float[Array, "N d"]:
    """Angle of every number of a head at every place of the map.

    The pair j of an axis turns by `position / grid * reference * 10000^(-4 j / d)`, j = 0 .. d/4 - 1.

    Args:
        grid: places along a side.
        reference: positions are squeezed to [0, reference).
        width: head width d, a multiple of 4.
    """
    frequencies = 10000.0 ** (-jnp.arange(0, width // 2, 2, dtype=jnp.float32) / (width // 2))  # [d/4]
    places = jnp.arange(grid, dtype=jnp.float32) / grid * reference
    turns = jnp.repeat(places[:, None] * frequencies[None], 2, axis=1)  # [G, d/2]
    rows = jnp.broadcast_to(turns[:, None], (grid, grid, width // 2))
    columns = jnp.broadcast_to(turns[None], (grid, grid, width // 2))
    return jnp.concatenate([rows, columns], axis=-1).reshape(grid * grid, width)


def rotate_pairs(x: Float[Array, "N H d"], turns: Float[Array, "N d"]) -> Float[Array, "N H d"]:
    """Turn the pairs (x_0, x_1), (x_2, x_3), ... of every head, in float32, back in the dtype of `x`."""
    wide = x.astype(jnp.float32)
    pairs = wide.reshape(*x.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)  # (a, b) -> (-b, a)
    return (wide * jnp.cos(turns)[:, None] + turned * jnp.sin(turns)[:, None]).astype(x.dtype)
