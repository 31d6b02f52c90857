"""The neighbourhood loss: how well r answers similar questions whose answers are known.

Axis letters: K neighbours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r2t2_jax.contract import Answer, Features, LogprobModel, Params, Query, References, RoutedLoss, RoutedModel
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


class Objective(Protocol):
    """A loss over the routing weights of one test sample."""

    def __call__(
        self, model: RoutedLoss, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]: ...

    def forwards(self, references: References | None) -> int:
        """The r-dependent forward passes that one value takes."""
        ...


@register_pytree_dataclass
@dataclass(frozen=True)
class Neighborhood:
    """L(r) = sum_i K(x_i, x) l(f(x_i, r), y_i) / sum_i K(x_i, x) (R2-T2, equation 3).

    The *test sample's* r goes into every neighbour's forward pass. Where no neighbour has any weight L is zero.
    """

    def __call__(
        self, model: RoutedLoss, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]:
        assert references is not None
        assert references.weights is not None

        def loss(features: Features, answer: Answer) -> Float[Array, ""]:
            return model.answer_loss(params, features, routing, answer)

        losses = jax.vmap(loss)(references.features, references.answers)  # [K]
        weights = references.weights
        total = weights.sum()
        # A neighbour of weight zero is left out, not multiplied by zero: its loss may be infinite.
        weighted = jnp.where(weights > 0, weights * losses, 0.0).sum()
        return weighted / jnp.where(total > 0, total, 1.0)

    def forwards(self, references: References | None) -> int:
        """Each value takes one forward pass a neighbour, padded ones too."""
        assert references is not None
        assert references.weights is not None
        return references.weights.shape[-1]


Loss = Callable[[Routing | None], Float[Array, ""]]


class PerSampleObjective(ABC):
    """An objective of which a part is computed once a sample, before the search."""

    @property
    @abstractmethod
    def prepare_forwards(self) -> int:
        """What that part costs, in r-dependent forward passes."""

    @abstractmethod
    def prepare_loss(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        """The loss over r of one sample."""

    def __call__(
        self, model: RoutedLoss, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]:
        return self.prepare_loss(model, params, query, references)(routing)

    @abstractmethod
    def forwards(self, references: References | None) -> int:
        """What one value of the loss costs after that."""


def greedy_answer(model: RoutedLoss, params: Params, query: Query, max_new_tokens: int) -> Answer:
    """The untouched model's greedy answer."""
    routed = cast(RoutedModel, model)
    return routed.as_answer(routed.generate(params, query.features, None, max_new_tokens))


def answer_logprobs_at(
    model: RoutedLoss, params: Params, features: Features, routing: Routing | None, answer: Answer
) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
    """p_r: log-probabilities of every word at each place of an answer, and which places count."""
    return cast(LogprobModel, model).token_logprobs(params, features, routing, answer)


def mean_over_answer(values: Float[Array, "A"], mask: Bool[Array, "A"]) -> Float[Array, ""]:
    """The mean over the places that count."""
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def entropy(logprobs: Float[Array, "*n V"]) -> Float[Array, "*n"]:
    """H(p) = - sum_v p_v ln p_v, in nats."""
    return -(jnp.exp(logprobs) * logprobs).sum(axis=-1)


def effective_weights(model: RoutedLoss, params: Params, query: Query, routing: Routing | None) -> Float[Array, "L E"]:
    """The routing weights which a routing stands for."""
    if routing is not None and routing.mode == "replace":
        return routing.values
    return cast(RoutedModel, model).route(params, query.features, routing)


@register_pytree_dataclass
@dataclass(frozen=True)
class SelfConfidence:
    """L(r) = l(f(x, r), y(r)) with y(r) the model's own greedy answer under r, of at most `max_new_tokens` tokens."""

    max_new_tokens: int = field(metadata={"static": True})

    def __call__(
        self, model: RoutedLoss, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]:
        if not isinstance(model, RoutedModel):
            raise TypeError("the confidence loss needs a model that can generate, not an answer loss alone")
        tokens = model.generate(params, query.features, routing, self.max_new_tokens)  # [A]
        return model.answer_loss(params, query.features, routing, model.as_answer(tokens))

    def forwards(self, references: References | None) -> int:
        """One pass to generate, one to score."""
        return 2


@register_pytree_dataclass
@dataclass(frozen=True)
class Oracle:
    """L(r) = l(f(x, r), y) (R2-T2, equation 2)."""

    def __call__(
        self, model: RoutedLoss, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]:
        return model.answer_loss(params, query.features, routing, query.answer)

    def forwards(self, references: References | None) -> int:
        return 1
