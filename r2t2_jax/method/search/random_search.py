"""Random search: the best of many random routings.

Axis letters: Q evaluated points, L routed layers, E experts, Z rows of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import NOTHING
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult, running_argmin
from r2t2_jax.routing import group_softmax
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


def random_routing(problem: RoutingProblem, key: Key[Array, ""]) -> Float[Array, "L E"]:
    """Weights drawn uniformly from the simplex of each group's supported experts; one row for all layers if tied."""
    support = problem.query.support
    rows = 1 if problem.space.tied else support.shape[0]
    dtype = problem.query.routing.dtype
    logits = jnp.log(jax.random.exponential(key, (rows, support.shape[1]), dtype))  # normalized: Dirichlet(1, ..., 1)
    return group_softmax(problem.spec, jnp.broadcast_to(logits, support.shape), support)


@register_pytree_dataclass
@dataclass(frozen=True)
class RandomSearch:
    """The best of n routings: the router's own and n - 1 random ones."""

    candidates: int = field(default=10, metadata={"static": True})

    uses_router = True
    needs = NOTHING

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise R2T2Error(f"random search of {self.candidates} candidates; it must be at least 1")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        keys = jax.random.split(key, self.candidates - 1)
        drawn = jax.vmap(lambda key: problem.coordinates(random_routing(problem, key)))(keys)  # [Q - 1, Z, E]
        points = jnp.concatenate([problem.start()[None], drawn])  # [Q, Z, E]
        values = jax.lax.map(problem.value, points)  # [Q]
        best = running_argmin(values)
        return SearchResult(points[best], values[best], {}, self.candidates * problem.forwards_per_eval)
