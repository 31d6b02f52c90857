"""From the router's weights towards the neighbours', as far as one number says: T3's and kNN-MoE's mixtures.

Axis letters: L routed layers, E experts, Z rows of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.kernel_regression import kernel_mean
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


def _part_way(
    problem: RoutingProblem, share: Float[Array, ""], losses: Float[Array, "q"], evaluations: int
) -> SearchResult:
    """r0 + share (r_hat - r0) in coordinates."""
    own, mean = problem.start(), problem.coordinates(kernel_mean(problem))
    path = jnp.stack([own, own + share * (mean - own)])  # [2, Z, E]
    return SearchResult(path, losses, {"share": share}, evaluations)


@register_pytree_dataclass
@dataclass(frozen=True)
class T3Interpolation:
    """r = alpha r0 + (1 - alpha) r_hat, alpha = low + (high - low) sigmoid(gamma L(r_hat)).

    With the Jensen-Shannon divergence for L this is T3's coefficient (Imam et al. 2025, arXiv 2510.27265; default gamma
    0.5). T3 mixes the weights of a general model and a specialist, and turns to the general one the more they disagree;
    here the router is the general one, the neighbours are the specialist, and the routing is mixed. A divergence lies
    between 0 and ln 2, so with these numbers alpha moves between 0.50 and 0.59 only.
    """

    low: float = 0.0
    high: float = 1.0
    gamma: float = 0.5

    uses_router = True

    def __post_init__(self) -> None:
        numbers = isinstance(self.low, int | float) and isinstance(self.high, int | float)
        if numbers and not 0 <= self.low <= self.high <= 1:
            raise R2T2Error(f"shares from {self.low} to {self.high}; they must rise within 0 and 1")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        loss = problem.value(problem.coordinates(kernel_mean(problem)))
        alpha = self.low + (self.high - self.low) * jax.nn.sigmoid(self.gamma * loss)
        return _part_way(problem, 1 - alpha, jnp.zeros(0), problem.forwards)


@register_pytree_dataclass
@dataclass(frozen=True)
class KnnMoeInterpolation:
    """share = the neighbours' mean kernel value, at most 1: far from every reference the router keeps its say.

    kNN-MoE (2026, arXiv 2601.02144): the aggregate similarity of what was retrieved is the mixing coefficient.
    """

    uses_router = True

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        references = problem.references
        assert references is not None
        assert references.weights is not None
        return _part_way(problem, jnp.clip(references.weights.mean(), 0.0, 1.0), jnp.zeros(0), 0)
