"""How far r moves the model from what it would say by itself.

Axis letters: A answer tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Float

from r2t2_jax.contract import Params, Query, References, Reroutable
from r2t2_jax.objectives.anchored import Anchored, Loss, distribution, mean_over_answer, own_answer
from r2t2_jax.pytrees import register_structure
from r2t2_jax.routing import Routing


@register_structure
@dataclass(frozen=True)
class Disagreement(Anchored):
    """L(r) = JS(p_r0, p_r), the Jensen-Shannon divergence in nats, the mean over the untouched model's own answer."""

    max_new_tokens: int = field(metadata={"static": True})

    anchor_forwards = 2

    def anchored(self, model: Reroutable, params: Params, query: Query, references: References | None) -> Loss:
        answer = own_answer(model, params, query, self.max_new_tokens)
        own, mask = distribution(model, params, query.features, None, answer)

        def loss(routing: Routing | None) -> Float[Array, ""]:
            other, _ = distribution(model, params, query.features, routing, answer)
            return mean_over_answer(jensen_shannon(own, other), mask)

        return loss

    def forwards(self, references: References | None) -> int:
        return 1


def jensen_shannon(first: Float[Array, "A V"], second: Float[Array, "A V"]) -> Float[Array, "A"]:
    """(KL(p || m) + KL(q || m)) / 2 with m the mean of p and q, from their logarithms; in nats, at most ln 2."""
    middle = jnp.logaddexp(first, second) - math.log(2)
    from_first, from_second = ((jnp.exp(one) * (one - middle)).sum(axis=-1) for one in (first, second))
    return (from_first + from_second) / 2
