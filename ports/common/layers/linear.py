"""Linear maps, embeddings and norms with parameters and activations in one dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def linear(inside: int, outside: int, rngs: nnx.Rngs, dtype: str = "float32", bias: bool = True) -> nnx.Linear:
    """The map y = x kernel + bias, kernel [inside, outside]; x is cast to `dtype`."""
    return nnx.Linear(inside, outside, use_bias=bias, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), rngs=rngs)


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: str = "float32", spread: float = 0.02) -> nnx.Param:
    """A parameter drawn from a normal distribution: embeddings, class tokens, position tables."""
    return nnx.Param(spread * jax.random.normal(rngs.params(), shape, jnp.dtype(dtype)))


def _normalized(x: Float[Array, "*T D"], eps: float) -> Float[Array, "*T D"]:
    """X / sqrt(mean(x^2) + eps) over the last axis, for x in float32."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


class RMSNorm(nnx.Module):
    """scale * x / sqrt(mean(x^2) + eps), as in Llama: rounded to the dtype of x before the scale is applied."""

    def __init__(self, width: int, eps: float, dtype: str = "float32"):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width, dtype))

    def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        wide = _normalized(x.astype(jnp.float32), self.eps)
        return wide.astype(x.dtype) * along_last(self.scale[...].astype(x.dtype), x.ndim)


class ZeroCenteredRMSNorm(nnx.Module):
    """(1 + scale) * x / sqrt(mean(x^2) + eps), as in Gemma and Qwen3.5: in float32, rounded at the end."""

    def __init__(self, width: int, eps: float, dtype: str = "float32"):
        self.eps = eps
        self.scale = nnx.Param(jnp.zeros(width, dtype))

    def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        wide = _normalized(x.astype(jnp.float32), self.eps)
        return (wide * along_last(1 + self.scale[...].astype(jnp.float32), x.ndim)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """scale * (x - mean(x)) / sqrt(var(x) + eps) + bias over the last axis."""

    def __init__(self, width: int, eps: float, dtype: str = "float32"):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width, dtype))
        self.bias = nnx.Param(jnp.zeros(width, dtype))

    def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        wide = x.astype(jnp.float32)
        wide = _normalized(wide - wide.mean(axis=-1, keepdims=True), self.eps)
        scale, bias = (along_last(part[...].astype(jnp.float32), x.ndim) for part in (self.scale, self.bias))
        return (wide * scale + bias).astype(x.dtype)


def along_last(vector: Float[Array, "D"], ndim: int) -> Float[Array, "*ones D"]:
    """The vector with `ndim` axes, for explicit broadcasting along the last axis."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)
