"""The router as functions: a gate's logits, the coarse choice, and what stands in their place become weights.

Axis letters: E experts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

OUT = -1e6  # added to the logit of an expert that the coarse pass did not choose


def gate_weights(logits: Float[Array, "E"], coarse: Bool[Array, "E"], topk: int) -> Float[Array, "E"]:
    """Softmax over the chosen experts in float32, its `topk` largest entries brought to sum 1.

    Where fewer than `topk` are chosen the others have exactly zero; where none is, all have.
    """
    scores = jax.nn.softmax(logits.astype(jnp.float32) + jnp.where(coarse, 0.0, OUT))
    kept, experts = jax.lax.top_k(scores, min(topk, scores.shape[0]))
    weights = jnp.zeros_like(scores).at[experts].set(kept / kept.sum())
    return weights * coarse.any()
