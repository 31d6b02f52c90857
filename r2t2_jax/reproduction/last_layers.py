"""A model of which only the last layers' routing is searched: the critical layers of C3PO (arXiv 2504.07964).

Axis letters: L routed layers, E experts, A answer tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r2t2_jax.contract import Answer, Features, Params, RoutedModel
from r2t2_jax.routing import Routing, RoutingSpec


@dataclass(frozen=True)
class LastLayers:
    """The model itself, but for the loss: it has no slope with respect to the weights of the first layers.

    Descent from the router's weights then leaves those where they are, under every optimiser and in every space whose
    layers are not tied.
    """

    model: RoutedModel
    last: int

    @property
    def spec(self) -> RoutingSpec:
        return self.model.spec

    def answer_loss(
        self, params: Params, features: Features, routing: Routing | None, answer: Answer
    ) -> Float[Array, ""]:
        if routing is not None:
            values = routing.values  # [L, E]
            moves = jnp.arange(len(values)) >= len(values) - self.last
            held = jnp.where(moves[:, None], values, jax.lax.stop_gradient(values))
            routing = replace(routing, values=held)
        return self.model.answer_loss(params, features, routing, answer)

    def generate(
        self, params: Params, features: Features, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        return self.model.generate(params, features, routing, max_new_tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)
