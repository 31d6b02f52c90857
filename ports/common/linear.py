"""Linear maps and embeddings with parameters and activations in one dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


def linear(inside: int, outside: int, rngs: nnx.Rngs, dtype: str = "float32", bias: bool = True) -> nnx.Linear:
    """The map y = x kernel + bias, kernel [inside, outside]; x is cast to `dtype`."""
    return nnx.Linear(inside, outside, use_bias=bias, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), rngs=rngs)


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: str = "float32", spread: float = 0.02) -> nnx.Param:
    """A parameter drawn from a normal distribution: embeddings, class tokens, position tables."""
    return nnx.Param(spread * jax.random.normal(rngs.params(), shape, jnp.dtype(dtype)))
