"""Kernel regression, and fixed routing weights.

Axis letters: K neighbors, L routed layers, E experts, Z rows of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from r2t2_jax.method.needs import NOTHING, Need
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.routing import uniform
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


def weighted_mean(weights: Float[Array, "K"], routing: Float[Array, "K L E"]) -> Float[Array, "L E"]:
    """sum_i w_i r_i / sum_i w_i; zero where no reference has any weight."""
    total = weights.sum()
    return jnp.tensordot(weights, routing, axes=1, precision="highest") / jnp.where(total > 0, total, 1.0)


def kernel_mean(problem: RoutingProblem) -> Float[Array, "L E"]:
    """r_hat = sum_i K(x_i, x) r_i / sum_i K(x_i, x) (R2-T2, equation 4)."""
    references = problem.references
    assert references is not None
    assert references.weights is not None
    assert references.routing is not None
    return weighted_mean(references.weights, references.routing)


@register_pytree_dataclass
@dataclass(frozen=True)
class KernelRegression:
    """r <- r_hat, brought onto the sample's support."""

    uses_router = True
    needs = frozenset({Need.NEIGHBORS})

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        path = jnp.stack([problem.start(), problem.coordinates(kernel_mean(problem))])  # [2, Z, E]
        return SearchResult(path, jnp.zeros(0), {}, evaluations=0)


def mixture(problem: RoutingProblem, share: Float[Array, ""], evaluations: int) -> SearchResult:
    """R = r0 + share (r_hat - r0), in coordinates."""
    start, mean = problem.start(), problem.coordinates(kernel_mean(problem))
    path = jnp.stack([start, start + share * (mean - start)])  # [2, Z, E]
    return SearchResult(path, jnp.zeros(0), {"share": share}, evaluations)


@register_pytree_dataclass
@dataclass(frozen=True)
class FixedRouting:
    """Fixed routing weights.

    - `router`: the router's own mean weights at every place. If gates are per token, this is itself a change.
    - `uniform`: equal weight on every supported expert of each group.
    - `task`: the weights that a person chose for this question (`Query.task_routing`).
    - `finetuned`: the weights of a gate fine-tuned on the references (`Query.finetuned_routing`).
    """

    which: Literal["router", "uniform", "task", "finetuned"] = field(metadata={"static": True})

    @property
    def uses_router(self) -> bool:
        return self.which in ("router", "finetuned")

    @property
    def needs(self) -> frozenset[Need]:
        """The field of the query that is read."""
        fields = {"task": Need.TASK_ROUTING, "finetuned": Need.FINETUNED_ROUTING}
        return frozenset({fields[self.which]}) if self.which in fields else NOTHING

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        query = problem.query
        if self.which == "router":
            weights = query.routing
        elif self.which == "uniform":
            weights = uniform(problem.spec, query.support).astype(query.routing.dtype)
        else:
            chosen = query.task_routing if self.which == "task" else query.finetuned_routing
            assert chosen is not None
            weights = chosen
        return SearchResult(problem.coordinates(weights)[None], jnp.zeros(0), {}, evaluations=0)
