"""The model's own words as labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Float

from r2t2_jax.contract import Params, Query, References, RoutedLoss
from r2t2_jax.method.objectives import Loss, PerSampleObjective, answer_logprobs_at, greedy_answer, mean_over_answer
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class SelfCrossEntropy(PerSampleObjective):
    """L(r) = l(f(x, r), y0) with y0 the untouched model's own answer.

    Rewiring Experts on the Fly (Su et al. 2025, arXiv 2510.14853): a vector added to each layer's router logits is
    fitted to the text so far, five steps at 0.05. Departures: the prompt's own words are no part of the loss, which the
    contract does not offer; answers here are shorter than the 128 tokens after which the source fits again; and all
    layers move, where the source chooses some by the router's confidence.
    """

    max_new_tokens: int = field(metadata={"static": True})

    prepare_forwards = 1

    def prepare_loss(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        return lambda routing: model.answer_loss(params, query.features, routing, answer)

    def forwards(self, references: References | None) -> int:
        return 1


@register_pytree_dataclass
@dataclass(frozen=True)
class JensenShannon(PerSampleObjective):
    """L(r) = JS(p_r0, p_r), the Jensen-Shannon divergence in nats, the mean over the untouched model's own answer."""

    max_new_tokens: int = field(metadata={"static": True})

    prepare_forwards = 2

    def prepare_loss(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        own, mask = answer_logprobs_at(model, params, query.features, None, answer)

        def loss(routing: Routing | None) -> Float[Array, ""]:
            other, _ = answer_logprobs_at(model, params, query.features, routing, answer)
            return mean_over_answer(jensen_shannon(own, other), mask)

        return loss

    def forwards(self, references: References | None) -> int:
        return 1


def jensen_shannon(first: Float[Array, "A V"], second: Float[Array, "A V"]) -> Float[Array, "A"]:
    """(KL(p || m) + KL(q || m)) / 2 with m the mean of p and q, from their logarithms; in nats, at most ln 2."""
    middle = jnp.logaddexp(first, second) - math.log(2)
    from_first, from_second = ((jnp.exp(one) * (one - middle)).sum(axis=-1) for one in (first, second))
    return (from_first + from_second) / 2
