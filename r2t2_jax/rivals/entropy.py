"""Entropy minimisation: make the model sure of its answer, whatever it is. It needs neither label nor references."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r2t2_jax.contract import Answer, Features, Params, Query, References, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.objectives import (
    Loss,
    PerSampleObjective,
    answer_logprobs_at,
    effective_weights,
    entropy,
    greedy_answer,
    mean_over_answer,
)
from r2t2_jax.routing import TINY, Routing
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


def answer_entropy(
    model: RoutedLoss, params: Params, features: Features, routing: Routing | None, answer: Answer
) -> Float[Array, ""]:
    """H(p_r): the mean over the answer's tokens of the entropy of the next word."""
    logprobs, mask = answer_logprobs_at(model, params, features, routing, answer)
    return mean_over_answer(entropy(logprobs), mask)


@register_pytree_dataclass
@dataclass(frozen=True)
class Entropy(PerSampleObjective):
    """L(r) = H(p_r) (TENT, Wang et al. 2021, arXiv 2006.10726, equation 2).

    Departures: r moves instead of the normalisation layers' gains; each sample starts anew, where the source adapts to
    a stream; p_r is over the whole vocabulary, its entropy averaged over the tokens of the untouched model's answer.
    """

    max_new_tokens: int = field(metadata={"static": True})

    prepare_forwards = 1

    def prepare_loss(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        return lambda routing: answer_entropy(model, params, query.features, routing, answer)

    def forwards(self, references: References | None) -> int:
        return 1


@register_pytree_dataclass
@dataclass(frozen=True)
class ReliableEntropy(PerSampleObjective):
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

    prepare_forwards = 2
    reads_weights = True

    def __post_init__(self) -> None:
        if isinstance(self.pull, int | float) and self.pull < 0:
            raise R2T2Error(f"pull {self.pull} towards the router's weights; it must not be negative")

    def prepare_loss(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        first = answer_entropy(model, params, query.features, None, answer)
        weight = jnp.where(first < self.margin, jnp.exp(self.margin - first), 0.0)

        def loss(routing: Routing | None) -> Float[Array, ""]:
            value = answer_entropy(model, params, query.features, routing, answer)
            weights = effective_weights(model, params, query, routing)
            return weight * value + self.pull * divergence(weights, query.routing)

        return loss

    def forwards(self, references: References | None) -> int:
        return 1


def divergence(weights: Float[Array, "L E"], own: Float[Array, "L E"]) -> Float[Array, ""]:
    """KL(r || r0), the mean over layers; weights below `TINY` count as that much."""
    p, q = jnp.maximum(weights, TINY), jnp.maximum(own, TINY)
    return (p * jnp.log(p / q)).sum(axis=-1).mean()


@register_pytree_dataclass
@dataclass(frozen=True)
class MarginalEntropy(PerSampleObjective):
    """L(r) = H(mean over views a of p_r(x_a)).

    MEMO (Zhang et al. 2022, arXiv 2110.09506, equation 2) averages over all views. TPT (Shu et al. 2022, arXiv
    2209.07511, equation 4; code: azshue/TPT) keeps the tenth of 64 views of which the untouched model is surest.
    Departures: r moves instead of all weights (MEMO) or a prompt (TPT); one r is shared by all views; and there are
    fewer views, changed only in ways that leave answers about colour, place and number as they are
    (`evaluation/pictures.py`).
    """

    max_new_tokens: int = field(metadata={"static": True})
    views: int = field(metadata={"static": True})
    kept: int | None = field(default=None, metadata={"static": True})

    augmentations = "views"

    def __post_init__(self) -> None:
        if self.views < 1 or not 1 <= (self.kept or self.views) <= self.views:
            raise R2T2Error(f"{self.kept or self.views} views kept of {self.views}; it must be between 1 and all")

    @property
    def prepare_forwards(self) -> int:
        """The answer, and to choose among views one pass each."""
        return 1 + (self.views if self.kept is not None else 0)

    def prepare_loss(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        views = query.views
        if self.kept is not None:
            each = jax.vmap(lambda view: answer_entropy(model, params, view, None, answer))(views)  # [V]
            surest = jax.lax.top_k(-each, self.kept)[1]  # the earlier among equals
            views = jax.tree.map(lambda leaf: leaf[surest], views)
        return partial(_marginal, model, params, views, answer)

    def forwards(self, references: References | None) -> int:
        return self.views if self.kept is None else self.kept


def _marginal(
    model: RoutedLoss, params: Params, views: Features, answer: Answer, routing: Routing | None
) -> Float[Array, ""]:
    def tell(view: Features) -> tuple[Float[Array, "A W"], Bool[Array, "A"]]:
        return answer_logprobs_at(model, params, view, routing, answer)

    logprobs, masks = jax.vmap(tell)(views)  # [H, A, W], [H, A]
    mean = jax.nn.logsumexp(logprobs, axis=0) - math.log(logprobs.shape[0])  # [A, W]
    return mean_over_answer(entropy(mean), masks[0])


LIMIT = 1.25  # times E0: the source filters at 0.5 ln C and weighs from E0 = 0.4 ln C


@register_pytree_dataclass
@dataclass(frozen=True)
class DeYOEntropy(PerSampleObjective):
    """L(r) = w H(p_r), w = [H0 < 1.25 E0] [D > threshold] (exp(E0 - H0) + exp(D)).

    D = p(y|x) - p(y|x') with x' the image's patches in disorder: DeYO (Lee et al. 2024, arXiv 2403.07366). Departures:
    r moves instead of the normalisation layers' gains; y is the untouched model's answer, whose probability is the
    geometric mean over its tokens; w is fixed at r0, where the source's only step is taken.
    """

    max_new_tokens: int = field(metadata={"static": True})
    margin: float = 0.5545  # E0 in nats: 0.4 ln C for C = 4
    threshold: float = 0.2

    prepare_forwards = 3
    augmentations = "shuffled"

    def prepare_loss(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
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
