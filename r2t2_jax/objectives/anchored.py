"""Objectives that first look at the untouched model: at its own answer, and at how sure of it the model is.

Axis letters: A answer tokens, V vocabulary, L routed layers, E experts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r2t2_jax.contract import Answer, Features, Params, Query, References, Reroutable, RoutedModel, TellingModel
from r2t2_jax.routing import Routing

Loss = Callable[[Routing | None], Float[Array, ""]]


class Anchored(ABC):
    """An objective of which a part is computed once a sample, before the search."""

    @property
    @abstractmethod
    def anchor_forwards(self) -> int:
        """What that part costs, in r-dependent forward passes."""

    @abstractmethod
    def anchored(self, model: Reroutable, params: Params, query: Query, references: References | None) -> Loss:
        """The loss over r of one sample."""

    def __call__(
        self, model: Reroutable, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]:
        return self.anchored(model, params, query, references)(routing)

    @abstractmethod
    def forwards(self, references: References | None) -> int:
        """What one value of the loss costs after that."""


def own_answer(model: Reroutable, params: Params, query: Query, max_new_tokens: int) -> Answer:
    """The untouched model's greedy answer."""
    routed = cast(RoutedModel, model)
    return routed.as_answer(routed.generate(params, query.features, None, max_new_tokens))


def distribution(
    model: Reroutable, params: Params, features: Features, routing: Routing | None, answer: Answer
) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
    """p_r: log-probabilities of every word at each place of an answer, and which places count."""
    return cast(TellingModel, model).token_logprobs(params, features, routing, answer)


def mean_over_answer(values: Float[Array, "A"], mask: Bool[Array, "A"]) -> Float[Array, ""]:
    """The mean over the places that count."""
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def entropy(logprobs: Float[Array, "*n V"]) -> Float[Array, "*n"]:
    """H(p) = - sum_v p_v ln p_v, in nats."""
    return -(jnp.exp(logprobs) * logprobs).sum(axis=-1)


def weights_in_effect(model: Reroutable, params: Params, query: Query, routing: Routing | None) -> Float[Array, "L E"]:
    """The routing weights which a routing stands for."""
    if routing is not None and routing.mode == "replace":
        return routing.values
    return cast(RoutedModel, model).route(params, query.features, routing)
