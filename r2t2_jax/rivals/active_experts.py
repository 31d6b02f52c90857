"""Dynamic Experts Search: choose the number of active experts.

Axis letters: Q numbers of active experts, L routed layers, E experts, Z rows of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.method.needs import NOTHING
from r2t2_jax.method.objectives import SelfConfidence
from r2t2_jax.method.presets import GenerationSettings
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult, running_argmin
from r2t2_jax.method.strategies import Strategy, free_space
from r2t2_jax.routing import UpdateSpace, by_group, restrict
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


def _rank(weights: Float[Array, "L n"]) -> Int[Array, "L n"]:
    """The rank of each weight in its row: 0 for the largest, the earlier expert first among equal ones."""
    return jnp.argsort(jnp.argsort(-weights, axis=-1, stable=True), axis=-1)


@register_pytree_dataclass
@dataclass(frozen=True)
class ActiveExperts:
    """The best of r = renorm(top-k(r0)) over k = E, ..., 1 active experts in each group of each layer.

    Dynamic Experts Search (Han et al. 2025, arXiv 2509.22572) runs one solution for each k and lets a verifier choose.
    Departures: the strategy's objective is the verifier, and every expert runs for any k, so that the cost of a
    pass does not depend on k.
    """

    uses_router = True
    needs = NOTHING

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        spec, query = problem.spec, problem.query
        router = restrict(spec, query.routing, query.support)
        rank = by_group(spec, _rank, jnp.where(query.support, router, -1.0))  # [L, E]
        largest = max(len(group) for group in spec.groups)

        def top(active: Int[Array, ""]) -> Float[Array, "Z E"]:
            support: Bool[Array, "L E"] = (rank < active) & query.support
            return problem.coordinates(restrict(spec, router, support))

        points = jax.vmap(top)(jnp.arange(largest, 0, -1))  # [Q, Z, E]
        values = jax.lax.map(problem.value, points)
        best = running_argmin(values)
        return SearchResult(
            points[best], values[best], {"active": largest - best[-1]}, largest * problem.forwards_per_eval
        )


def active_experts(generation: GenerationSettings, space: UpdateSpace) -> Strategy:
    """The number of active experts with the most confident answer."""
    objective = SelfConfidence(generation.max_new_tokens)
    return Strategy("active_experts", objective=objective, search=ActiveExperts(), space=free_space(space))
