"""Normalisations with their statistics in float32, whatever the dtype of the activations.

Axis letters: D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class RMSNorm(nnx.Module):
    """scale * x / sqrt(mean(x^2) + eps), as in Llama: rounded to the dtype of x before the scale is applied."""

    def __init__(self, width: int, eps: float, dtype: str = "float32"):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width, dtype))

    def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return wide.astype(x.dtype) * along_last(self.scale[...].astype(x.dtype), x.ndim)


class LayerNorm(nnx.Module):
    """scale * (x - mean(x)) / sqrt(var(x) + eps) + bias over the last axis."""

    def __init__(self, width: int, eps: float, dtype: str = "float32"):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width, dtype))
        self.bias = nnx.Param(jnp.zeros(width, dtype))

    def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        wide = x.astype(jnp.float32)
        wide = wide - wide.mean(axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        scale, bias = (along_last(part[...].astype(jnp.float32), x.ndim) for part in (self.scale, self.bias))
        return (wide * scale + bias).astype(x.dtype)


def along_last(vector: Float[Array, "D"], ndim: int) -> Float[Array, "*ones D"]:
    """The vector with as many axes as what it is broadcast against; ranks are never promoted silently."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)
