"""Rotary positions on a square map, interleaved: half of a head's pairs turn with the row, half with the column.

EVA-02's scheme, used by Co-DETR and the adapter.

Axis letters: N = G * G tokens (row-major), H heads, d head width.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


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
