"""Fragile samples: those whose router or answer is uncertain, to which a strategy can be restricted.

Routers are informative on confident tokens and uninformative on fragile ones (2026, arXiv 2605.07260): a strategy that
leaves confident samples alone cannot spoil them.

Axis letters: L routed layers, E experts, A answer tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, cast

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r2t2_jax.contract import LogprobModel, Params, Query, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import NOTHING, Need
from r2t2_jax.method.objectives import greedy_answer
from r2t2_jax.method.presets import FragileSettings
from r2t2_jax.routing import RoutingSpec, by_group
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

Measure = Literal["router", "answer"]
MEASURES = ("none", "router", "answer")


@register_pytree_dataclass
@dataclass(frozen=True)
class FragileOnly:
    """Restricts a strategy to samples whose entropy exceeds a threshold; the others keep the untouched model.

    Args:
        measure: `router`, the entropy of r0 in each layer and group over its largest value, averaged (0 to 1);
            `answer`, the entropy in nats of the model's own answer, averaged over its tokens.
        threshold: traced, so that a sweep compiles nothing.
        max_new_tokens: of the answer.
    """

    measure: Measure = field(metadata={"static": True})
    threshold: float = 0.0
    max_new_tokens: int = field(default=8, metadata={"static": True})

    def __post_init__(self) -> None:
        if isinstance(self.threshold, int | float) and not (self.threshold >= 0 and math.isfinite(self.threshold)):
            raise R2T2Error(f"fragile.threshold {self.threshold}; an entropy is at least 0")

    @property
    def needs(self) -> frozenset[Need]:
        """The entropy of answers needs a model that generates and returns log-probabilities."""
        return frozenset({Need.TOKEN_LOGPROBS}) if self.measure == "answer" else NOTHING

    @property
    def evaluations(self) -> int:
        """Forward passes of the entropy: an answer and its log-probabilities; r0 is known."""
        return 2 if self.measure == "answer" else 0

    def is_fragile(self, model: RoutedLoss, params: Params, query: Query) -> Bool[Array, ""]:
        """Whether the entropy of a sample exceeds the threshold."""
        if self.measure == "router":
            return router_entropy(model.spec, query.routing) > self.threshold
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        logprobs, mask = cast(LogprobModel, model).token_logprobs(params, query.features, None, answer)
        return answer_entropy(logprobs, mask) > self.threshold


def router_entropy(spec: RoutingSpec, routing: Float[Array, "L E"]) -> Float[Array, ""]:
    """The mean entropy of the weights of each layer and group, each over its largest possible value: from 0 to 1.

    Weights that do not sum to one are divided by their sum; a group of one expert has no entropy.
    """

    def entropy(weights: Float[Array, "L n"]) -> Float[Array, "L n"]:
        total = weights.sum(axis=-1, keepdims=True)
        share = jnp.clip(weights / jnp.where(total > 0, total, 1.0), 0.0, 1.0)
        nats = -(share * jnp.log(jnp.where(share > 0, share, 1.0))).sum(axis=-1, keepdims=True)
        return jnp.broadcast_to(nats / max(math.log(weights.shape[-1]), 1e-9) / weights.shape[-1], weights.shape)

    return by_group(spec, entropy, routing).sum() / (routing.shape[0] * len(spec.groups))


def answer_entropy(logprobs: Float[Array, "A V"], mask: Bool[Array, "A"]) -> Float[Array, ""]:
    """The entropy of the next token in nats, averaged over the tokens of an answer."""
    finite = jnp.where(jnp.isfinite(logprobs), logprobs, 0.0)
    entropy = -(jnp.exp(logprobs) * finite).sum(axis=-1)
    return jnp.where(mask, entropy, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def fragile_of(fragile: FragileSettings) -> FragileOnly | None:
    """The restriction of these settings; `None` for the measure `none`.

    Raises:
        R2T2Error: the measure is unknown, or the threshold is negative.
    """
    if fragile.measure not in MEASURES:
        raise R2T2Error(f"unknown fragile.measure {fragile.measure!r}; choose {', '.join(MEASURES)}")
    if fragile.measure == "none":
        return None
    return FragileOnly(fragile.measure, fragile.threshold, fragile.max_new_tokens)
