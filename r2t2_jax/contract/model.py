"""What a model promises to the strategies.

Axis letters: L routed layers, E experts, A answer tokens, C candidates. A model is traced: one sample, static shapes,
padding by masks; batching is `vmap` or `lax.map` outside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.routing import Routing, RoutingSpec

Params = Any
Inputs = Any
Features = Any
Answer = Any


class RoutedLoss(Protocol):
    """The part of a model that every strategy needs; `RoutedModel` and `LossModel` both have it."""

    @property
    def spec(self) -> RoutingSpec: ...

    def answer_loss(
        self, params: Params, features: Features, routing: Routing | None, answer: Answer
    ) -> Float[Array, ""]: ...


@dataclass(frozen=True)
class LossModel:
    """A model given only by its loss `answer_loss(params, features, weights, answer)`.

    `weights` is a plain array [L, E]. This suffices for every strategy that replaces routing weights; strategies that
    need the gate (`shift`) or generated text (`best_of_n`) are refused.
    """

    loss: Callable[[Params, Features, Float[Array, "L E"], Answer], Float[Array, ""]]
    spec: RoutingSpec

    def answer_loss(
        self, params: Params, features: Features, routing: Routing | None, answer: Answer
    ) -> Float[Array, ""]:
        if routing is None or routing.mode != "replace":
            raise TypeError("a LossModel takes replaced routing weights only; use another update space than shift")
        return self.loss(params, features, routing.values, answer)


@runtime_checkable
class RoutedModel(Protocol):
    """A frozen mixture of experts whose routing weights can be replaced. Hashable: it is a static argument of jit.

    A model whose samples differ in their supported experts also has `support(features) -> Bool[Array, "*B L E"]`, which
    takes one sample's features or a batch's. With `reads_support = True` it computes only these experts where weights
    are replaced, and strategies pass the support in `Routing.support`. One whose gate reads a vector may have
    `gate_input(params, features) -> Float[Array, "H"]`, which `knn_moe` uses to find neighbors. One in which part of
    the work on a (sample, answer) pair does not depend on r may have `condition(params, features, answer) -> Features`:
    what `answer_loss` takes in place of the features for this answer, with the same loss. It returns its own result
    unchanged, so conditioned features may be stored. A small one, whose operations take less time than their dispatch,
    may have `cpu_vmap_size`: the number of samples that a CPU computes together by default. `LogprobModel` is the
    protocol of models for entropy objectives.
    """

    @property
    def spec(self) -> RoutingSpec:
        """Names and structure of the routing weights."""
        ...

    def encode(self, params: Params, inputs: Inputs) -> Features:
        """All work that depends neither on routing nor on an answer."""
        ...

    def route(self, params: Params, features: Features, routing: Routing | None = None) -> Float[Array, "L E"]:
        """The routing weights in effect: the gate's own for `None`."""
        ...

    def answer_loss(
        self, params: Params, features: Features, routing: Routing | None, answer: Answer
    ) -> Float[Array, ""]:
        """Mean cross-entropy of the answer's tokens, end-of-turn token included, padding masked."""
        ...

    def generate(
        self, params: Params, features: Features, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        """Greedy answer tokens, padded after the end-of-turn token."""
        ...

    def answer_logprobs(
        self, params: Params, features: Features, routing: Routing | None, candidates: Answer
    ) -> Float[Array, "C"]:
        """Total log-probability of each candidate answer; every leaf of `candidates` has a leading axis C."""
        ...

    def as_answer(self, tokens: Int[Array, "A"]) -> Answer:
        """Generated tokens as an answer, so that `answer_loss` can score it (`best_of_n`)."""
        ...


@runtime_checkable
class LogprobModel(RoutedModel, Protocol):
    """A routed model that also returns per-token log-probabilities, used by entropy objectives."""

    def token_logprobs(
        self, params: Params, features: Features, routing: Routing | None, answer: Answer
    ) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
        """Log-probability of every token at each place of an answer, given those before it; and the padding mask."""
        ...


@runtime_checkable
class BeamModel(RoutedModel, Protocol):
    """A routed model that also decodes with beam search."""

    def generate_beams(
        self, params: Params, features: Features, routing: Routing | None, max_new_tokens: int, num_beams: int
    ) -> Int[Array, "A"]:
        """The best answer of a beam search, padded after the end-of-turn token."""
        ...


def condition(model: RoutedLoss, params: Params, features: Features, answer: Answer) -> Features:
    """The features of a sample whose answer is known, with the work that does not depend on r done, as far as the model
    can tell it apart.
    """
    function = getattr(model, "condition", None)
    return features if function is None else function(params, features, answer)


def default_vmap_size(model: RoutedLoss) -> int:
    """The samples that a device computes together by default: on a CPU the `cpu_vmap_size` of the model, else 1."""
    return getattr(model, "cpu_vmap_size", 1) if jax.default_backend() == "cpu" else 1


def support_of(
    model: RoutedLoss, features: Features, routing: Float[Array, "B L E"] | Float[np.ndarray, "B L E"]
) -> Bool[Array, "B L E"]:
    """The model's own support of each sample, if it has one, else the support that its spec gives to all samples.

    Args:
        model: any model.
        features: of B samples.
        routing: their weights, for the shape.
    """
    own = getattr(model, "support", None)
    if own is None:
        return jax.device_put(np.broadcast_to(model.spec.support_mask(), np.shape(routing)))
    return jnp.broadcast_to(own(features), np.shape(routing))
