"""Entropy minimisation: make the model sure of its answer, whatever it is. It needs neither label nor references."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Float

from r2t2_jax.contract import Answer, Features, Params, Query, References, Reroutable
from r2t2_jax.errors import R2T2Error
from r2t2_jax.objectives.anchored import (
    Anchored,
    Loss,
    distribution,
    entropy,
    mean_over_answer,
    own_answer,
    weights_in_effect,
)
from r2t2_jax.pytrees import register_structure
from r2t2_jax.routing import TINY, Routing


def answer_entropy(
    model: Reroutable, params: Params, features: Features, routing: Routing | None, answer: Answer
) -> Float[Array, ""]:
    """H(p_r): the mean over the answer's tokens of the entropy of the next word."""
    logprobs, mask = distribution(model, params, features, routing, answer)
    return mean_over_answer(entropy(logprobs), mask)


@register_structure
@dataclass(frozen=True)
class Entropy(Anchored):
    """L(r) = H(p_r) (TENT, Wang et al. 2021, arXiv 2006.10726, equation 2).

    Departures: r moves instead of the normalisation layers' gains; each sample starts anew, where the source adapts to
    a stream; p_r is over the whole vocabulary, its entropy averaged over the tokens of the untouched model's answer.
    """

    max_new_tokens: int = field(metadata={"static": True})

    anchor_forwards = 1

    def anchored(self, model: Reroutable, params: Params, query: Query, references: References | None) -> Loss:
        answer = own_answer(model, params, query, self.max_new_tokens)
        return lambda routing: answer_entropy(model, params, query.features, routing, answer)

    def forwards(self, references: References | None) -> int:
        return 1


@register_structure
@dataclass(frozen=True)
class ReliableEntropy(Anchored):
    """L(r) = w H(p_r) + lambda KL(r || r0) with w = [H0 < E0] exp(E0 - H0), H0 the untouched model's entropy.

    EATA (Niu et al. 2022, arXiv 2204.02610, equations 2 to 4 and 8; code: mr-eggplant/EATA). A sample that is not sure
    enough to begin with is left alone: w is zero, and r0 is where the pull has its minimum. Departures: the source's
    penalty on weights that mattered in training (Fisher information) becomes the divergence from the router's own r, a
    mean over layers; its filter of samples like those before (cosine) is left out, since no sample may depend on others
    here; w is fixed at r0, where the source's only step is taken; and E0, ln(C) / 2 - 1 for ImageNet, is a setting.
    """

    max_new_tokens: int = field(metadata={"static": True})
    margin: float = 0.5545  # E0 in nats: 0.4 ln 4, SAR's share for four options
    pull: float = 1.0  # lambda

    anchor_forwards = 2
    reads_weights = True

    def __post_init__(self) -> None:
        if isinstance(self.pull, int | float) and self.pull < 0:
            raise R2T2Error(f"pull {self.pull} towards the router's weights; it must not be negative")

    def anchored(self, model: Reroutable, params: Params, query: Query, references: References | None) -> Loss:
        answer = own_answer(model, params, query, self.max_new_tokens)
        first = answer_entropy(model, params, query.features, None, answer)
        weight = jnp.where(first < self.margin, jnp.exp(self.margin - first), 0.0)

        def loss(routing: Routing | None) -> Float[Array, ""]:
            value = answer_entropy(model, params, query.features, routing, answer)
            weights = weights_in_effect(model, params, query, routing)
            return weight * value + self.pull * divergence(weights, query.routing)

        return loss

    def forwards(self, references: References | None) -> int:
        return 1


def divergence(weights: Float[Array, "L E"], own: Float[Array, "L E"]) -> Float[Array, ""]:
    """KL(r || r0), the mean over layers; weights below `TINY` count as that much."""
    p, q = jnp.maximum(weights, TINY), jnp.maximum(own, TINY)
    return (p * jnp.log(p / q)).sum(axis=-1).mean()
