"""Kernel regression: the weighted mean of the neighbours' own routing.

Axis letters: K neighbours, L routed layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from r2t2_jax.pytrees import register_structure
from r2t2_jax.search.problem import Found, Problem


def weighted_mean(weights: Float[Array, "K"], routing: Float[Array, "K L E"]) -> Float[Array, "L E"]:
    """sum_i w_i r_i / sum_i w_i; zero where no reference has any weight."""
    total = weights.sum()
    return jnp.tensordot(weights, routing, axes=1, precision="highest") / jnp.where(total > 0, total, 1.0)


def kernel_mean(problem: Problem) -> Float[Array, "L E"]:
    """r_hat = sum_i K(x_i, x) r_i / sum_i K(x_i, x) (R2-T2, equation 4)."""
    references = problem.references
    assert references is not None
    assert references.weights is not None
    assert references.routing is not None
    return weighted_mean(references.weights, references.routing)


@register_structure
@dataclass(frozen=True)
class KernelMean:
    """r <- r_hat, brought onto the sample's support."""

    uses_router = True

    def __call__(self, problem: Problem, key: Key[Array, ""]) -> Found:
        path = jnp.stack([problem.start(), problem.coordinates(kernel_mean(problem))])  # [2, Z, E]
        return Found(path, jnp.zeros(0), {}, evaluations=0)
