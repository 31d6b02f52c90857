"""Entropy minimisation for answers that depend on the shape of things: DeYO.

Axis letters: A answer tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp

from r2t2_jax.contract import Params, Query, References, Reroutable
from r2t2_jax.objectives.anchored import Anchored, Loss, own_answer
from r2t2_jax.objectives.entropy import answer_entropy
from r2t2_jax.pytrees import register_structure

LIMIT = 1.25  # times E0: the source filters at 0.5 ln C and weighs from E0 = 0.4 ln C


@register_structure
@dataclass(frozen=True)
class ObjectEntropy(Anchored):
    """L(r) = w H(p_r), w = [H0 < 1.25 E0] [D > threshold] (exp(E0 - H0) + exp(D)).

    D = p(y|x) - p(y|x') with x' the image's patches in disorder: DeYO (Lee et al. 2024, arXiv 2403.07366). Departures:
    r moves instead of the normalisation layers' gains; y is the untouched model's answer, whose probability is the
    geometric mean over its tokens; w is fixed at r0, where the source's only step is taken.
    """

    max_new_tokens: int = field(metadata={"static": True})
    margin: float = 0.5545  # E0 in nats: 0.4 ln C for C = 4
    threshold: float = 0.2

    anchor_forwards = 3
    pictures = "shuffled"

    def anchored(self, model: Reroutable, params: Params, query: Query, references: References | None) -> Loss:
        answer = own_answer(model, params, query, self.max_new_tokens)
        first = answer_entropy(model, params, query.features, None, answer)
        whole, broken = (
            jnp.exp(-model.answer_loss(params, features, None, answer)) for features in (query.features, query.shuffled)
        )
        drop = whole - broken
        weight = jnp.exp(self.margin - first) + jnp.exp(drop)
        weight = jnp.where((first < LIMIT * self.margin) & (drop > self.threshold), weight, 0.0)
        return lambda routing: weight * answer_entropy(model, params, query.features, routing, answer)

    def forwards(self, references: References | None) -> int:
        return 1
