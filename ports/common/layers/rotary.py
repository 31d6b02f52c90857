"""Rotary position embeddings in the half-split layout of Llama, Qwen2, Mistral and InternLM2.

Axis letters: T tokens, H heads, d head width.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotate(x: Float[Array, "T H d"], positions: Int[Array, "T"], theta: float) -> Float[Array, "T H d"]:
    """Rotate the pair (x_j, x_{j + d/2}) by `position * theta^(-2 j / d)`, in float32.

    Args:
        x: queries or keys; the same angle for every head.
        positions: of the tokens; attention depends on their differences only.
        theta: base of the frequencies.

    Returns:
        The rotated vectors in the dtype of `x`.
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)  # [d/2]
    angles = positions.astype(jnp.float32)[:, None, None] * frequencies[None, None]  # [T, 1, d/2]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
