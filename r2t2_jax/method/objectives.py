"""Objectives: losses over the routing weights of one test sample (docs/design.md, section 4).

Axis letters: K neighbors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from r2t2_jax.contract import Answer, Features, Params, Query, References, RoutedLoss, RoutedModel, condition
from r2t2_jax.method.needs import NOTHING, Need
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

Loss = Callable[[Routing | None], Float[Array, ""]]
Augmentations = Literal["views", "shuffled"]  # fields of `Query`


class Objective(ABC):
    """A loss over the routing weights of one test sample.

    `needs` is what it reads besides the model's loss; `augmentations` the augmented images among that. With
    `reads_weights` the loss depends on the weights in effect, which in the shift space take one more pass of the gate.
    """

    needs: ClassVar[frozenset[Need]] = NOTHING
    augmentations: ClassVar[Augmentations | None] = None
    reads_weights: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        """The loss of one sample as a function of its routing; what does not depend on the routing is computed here."""

    @abstractmethod
    def forwards(self, references: References | None) -> int:
        """The r-dependent forward passes of one value of the loss."""

    @property
    def prepare_forwards(self) -> int:
        """The forward passes of `prepare`."""
        return 0

    @property
    def num_augmentations(self) -> int:
        """The number of augmented images per sample."""
        return 0 if self.augmentations is None else 1

    def __call__(
        self, model: RoutedLoss, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]:
        return self.prepare(model, params, query, references)(routing)


@register_pytree_dataclass
@dataclass(frozen=True)
class Neighborhood(Objective):
    """L(r) = sum_i K(x_i, x) l(f(x_i, r), y_i) / sum_i K(x_i, x) (R2-T2, equation 3).

    The *test sample's* r goes into every neighbor's forward pass. If no neighbor has any weight, L is zero.
    """

    needs = frozenset({Need.NEIGHBORS, Need.NEIGHBOR_FEATURES})

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        assert references is not None
        assert references.weights is not None
        weights = references.weights
        prepared = jax.vmap(partial(condition, model, params))(references.features, references.answers)

        def loss(routing: Routing | None) -> Float[Array, ""]:
            def neighbor_loss(features: Features, answer: Answer) -> Float[Array, ""]:
                return model.answer_loss(params, features, routing, answer)

            losses = jax.vmap(neighbor_loss)(prepared, references.answers)  # [K]
            total = weights.sum()
            # A neighbor of weight zero is left out, not multiplied by zero: its loss may be infinite.
            weighted = jnp.where(weights > 0, weights * losses, 0.0).sum()
            return weighted / jnp.where(total > 0, total, 1.0)

        return loss

    def forwards(self, references: References | None) -> int:
        """One forward pass per neighbor, padded ones included."""
        assert references is not None
        assert references.weights is not None
        return references.weights.shape[-1]


def greedy_answer(model: RoutedLoss, params: Params, query: Query, max_new_tokens: int) -> Answer:
    """The greedy answer of the untouched model."""
    routed = cast(RoutedModel, model)
    return routed.as_answer(routed.generate(params, query.features, None, max_new_tokens))


def effective_weights(model: RoutedLoss, params: Params, query: Query, routing: Routing | None) -> Float[Array, "L E"]:
    """The routing weights that a routing gives: its values, or those of the shifted gate."""
    if routing is not None and routing.mode == "replace":
        return routing.values
    return cast(RoutedModel, model).route(params, query.features, routing)


@register_pytree_dataclass
@dataclass(frozen=True)
class SelfConfidence(Objective):
    """L(r) = l(f(x, r), y(r)) with y(r) the model's own greedy answer under r, of at most `max_new_tokens` tokens."""

    max_new_tokens: int = field(metadata={"static": True})

    needs = frozenset({Need.GENERATE})

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        routed = cast(RoutedModel, model)

        def loss(routing: Routing | None) -> Float[Array, ""]:
            tokens = routed.generate(params, query.features, routing, self.max_new_tokens)  # [A]
            return routed.answer_loss(params, query.features, routing, routed.as_answer(tokens))

        return loss

    def forwards(self, references: References | None) -> int:
        """One pass to generate, one to score."""
        return 2


@register_pytree_dataclass
@dataclass(frozen=True)
class Oracle(Objective):
    """L(r) = l(f(x, r), y) with the label y (R2-T2, equation 2)."""

    needs = frozenset({Need.ANSWERS})

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        features = condition(model, params, query.features, query.answer)
        return lambda routing: model.answer_loss(params, features, routing, query.answer)

    def forwards(self, references: References | None) -> int:
        return 1


@register_pytree_dataclass
@dataclass(frozen=True)
class PermutedOracle(Oracle):
    """L(r) = l(f(x, r), y') with the label y' of another question: the oracle's control for fitting of labels."""

    needs = frozenset({Need.PERMUTED_ANSWERS})

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        return super().prepare(model, params, replace(query, answer=query.permuted_answer), references)
