"""T3: a mixture of the router's weights and the neighbors', with a coefficient from their disagreement.

Axis letters: A answer tokens, V vocabulary, L routed layers, E experts, Z rows of coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from r2t2_jax.contract import Params, Query, References, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import Need
from r2t2_jax.method.objectives import Loss, Objective, greedy_answer
from r2t2_jax.method.presets import GenerationSettings, NeighborhoodSettings
from r2t2_jax.method.search.kernel_regression import kernel_mean, mixture
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.method.strategies import Strategy, free_space, kernel_of, selector_of
from r2t2_jax.rivals.entropy import mean_over_answer, token_logprobs
from r2t2_jax.routing import Routing, UpdateSpace
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@dataclass(frozen=True)
class T3Settings:
    """The share alpha of the router's weights is low + (high - low) sigmoid(gamma L)."""

    low: float = 0.0
    high: float = 1.0
    gamma: float = 0.5


@register_pytree_dataclass
@dataclass(frozen=True)
class JensenShannon(Objective):
    """L(r) = JS(p_r0, p_r), the Jensen-Shannon divergence in nats, the mean over the untouched model's own answer."""

    max_new_tokens: int = field(metadata={"static": True})

    needs = frozenset({Need.TOKEN_LOGPROBS})
    prepare_forwards = 2

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        router, mask = token_logprobs(model, params, query.features, None, answer)

        def loss(routing: Routing | None) -> Float[Array, ""]:
            other, _ = token_logprobs(model, params, query.features, routing, answer)
            return mean_over_answer(jensen_shannon(router, other), mask)

        return loss

    def forwards(self, references: References | None) -> int:
        return 1


def jensen_shannon(first: Float[Array, "A V"], second: Float[Array, "A V"]) -> Float[Array, "A"]:
    """(KL(p || m) + KL(q || m)) / 2 with m the mean of p and q, from their logarithms; in nats, at most ln 2."""
    middle = jnp.logaddexp(first, second) - math.log(2)
    from_first, from_second = ((jnp.exp(p) * (p - middle)).sum(axis=-1) for p in (first, second))
    return (from_first + from_second) / 2


@register_pytree_dataclass
@dataclass(frozen=True)
class T3Interpolation:
    """r = alpha r0 + (1 - alpha) r_hat, alpha = low + (high - low) sigmoid(gamma L(r_hat)).

    With the Jensen-Shannon divergence for L this is T3's coefficient (Imam et al. 2025, arXiv 2510.27265; default gamma
    0.5). T3 mixes the weights of a general model and a specialist; the more they disagree, the larger is the share of
    the general one. Here the router is the general model, the neighbors are the specialist, and the routing is mixed. A
    divergence lies between 0 and ln 2, so with these numbers alpha lies between 0.50 and 0.59.
    """

    low: float = 0.0
    high: float = 1.0
    gamma: float = 0.5

    uses_router = True
    needs = frozenset({Need.NEIGHBORS})

    def __post_init__(self) -> None:
        numbers = isinstance(self.low, int | float) and isinstance(self.high, int | float)
        if numbers and not 0 <= self.low <= self.high <= 1:
            raise R2T2Error(f"shares from {self.low} to {self.high}; they must rise within 0 and 1")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        loss = problem.value(problem.coordinates(kernel_mean(problem)))
        alpha = self.low + (self.high - self.low) * jax.nn.sigmoid(self.gamma * loss)
        return mixture(problem, 1 - alpha, problem.forwards_per_eval)


def t3(
    neighborhood: NeighborhoodSettings, generation: GenerationSettings, t3: T3Settings, space: UpdateSpace
) -> Strategy:
    """Interpolation of router and neighbors' mean by the divergence of their answers."""
    return Strategy(
        "t3",
        selector_of(neighborhood),
        kernel_of(neighborhood),
        JensenShannon(generation.max_new_tokens),
        T3Interpolation(t3.low, t3.high, t3.gamma),
        free_space(space),
    )
