"""Routings nobody has to search for: the router's mean, equal weights, a person's choice.

Axis letters: L routed layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Key

from r2t2_jax.pytrees import register_structure
from r2t2_jax.routing import uniform
from r2t2_jax.search.problem import Found, Problem


@register_structure
@dataclass(frozen=True)
class Constant:
    """Weights known beforehand.

    - `router`: the router's own mean weights in every place. Where gates are per token this is itself a change.
    - `uniform`: equal weight on every live expert of each group.
    - `task`: the weights somebody set by hand for this question (`Query.task`).
    - `tuned`: the weights of a gate fine-tuned on the references (`Query.tuned`).
    """

    which: Literal["router", "uniform", "task", "tuned"] = field(metadata={"static": True})

    @property
    def uses_router(self) -> bool:
        return self.which in ("router", "tuned")

    def __call__(self, problem: Problem, key: Key[Array, ""]) -> Found:
        query = problem.query
        if self.which == "router":
            weights = query.routing
        elif self.which == "uniform":
            weights = uniform(problem.spec, query.support).astype(query.routing.dtype)
        else:
            chosen = query.task if self.which == "task" else query.tuned
            assert chosen is not None
            weights = chosen
        return Found(problem.coordinates(weights)[None], jnp.zeros(0), {}, evaluations=0)
