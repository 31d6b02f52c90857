"""Rotary position embeddings in the half-split layout of Llama, Qwen, Mistral and InternLM2.

Axis letters: T tokens, H heads, d head width, r rotated entries of a head.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def frequencies(width: int, theta: float) -> Float[Array, "d/2"]:
    """theta^(-2 j / d) for j = 0 ... d/2 - 1, with d = `width`."""
    half = width // 2
    return theta ** (-jnp.arange(half, dtype=jnp.float32) / half)


def rotate(x: Float[Array, "T H d"], positions: Int[Array, "T"], theta: float) -> Float[Array, "T H d"]:
    """Rotate the pair (x_j, x_{j + d/2}) by `position * theta^(-2 j / d)`, in float32.

    Args:
        x: queries or keys; the same angle for every head.
        positions: of the tokens; attention depends on their differences only.
        theta: base of the frequencies.

    Returns:
        The rotated vectors in the dtype of `x`.
    """
    return rotate_by(x, positions.astype(jnp.float32)[:, None] * frequencies(x.shape[-1], theta)[None])


def rotate_by(x: Float[Array, "T H d"], angles: Float[Array, "T r/2"]) -> Float[Array, "T H d"]:
    """Rotate the pair (x_j, x_{j + r/2}) by `angles[:, j]`, in float32; the result has the dtype of `x`.

    The entries of `x` after the first r stay as they are.
    """
    half = angles.shape[-1]
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]  # [T, 1, r/2]
    first, second = x[..., :half].astype(jnp.float32), x[..., half : 2 * half].astype(jnp.float32)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
    return rotated if 2 * half == x.shape[-1] else jnp.concatenate([rotated, x[..., 2 * half :]], axis=-1)
