"""MoVA as a routed model: the functions of `r2t2_jax.contract.RoutedModel` over `modeling.py`.

Axis letters: L adapter blocks, E = 7 experts, A answer tokens, C candidates, D width, V vocabulary. One sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.mova.config import MovaConfig
from ports.mova.modeling import MovaAnswer, MovaFeatures, MovaInputs, MovaNet, Prompt
from r2t2_jax.routing import Routing, RoutingSpec


@dataclass(frozen=True)
class MovaModel:
    """The contract's functions; traced, one sample. `graph` is the structure of the NNX modules."""

    config: MovaConfig
    graph: Any

    @property
    def spec(self) -> RoutingSpec:
        return self.config.spec

    def _net(self, params: Any) -> MovaNet:
        return nnx.merge(self.graph, params)

    def encode(self, params: Any, inputs: MovaInputs) -> MovaFeatures:
        """The question as BERT reads it, its embeddings, the whole cross-attention of block 0, and what `keep` adds."""
        return self._net(params).encode(inputs)

    def support(self, features: MovaFeatures) -> Bool[Array, "*B L E"]:
        """Where a sample's r may lie: on the experts of its coarse pass, or on all whose features are there."""
        live = features.seen.coarse if self.config.support == "selected" else features.seen.available
        return jnp.broadcast_to(live[..., None, :], (*live.shape[:-1], *self.spec.shape))

    def route(self, params: Any, features: MovaFeatures, routing: Routing | None = None) -> Float[Array, "L E"]:
        """The weights in effect in each block. Later gates see what earlier weights did."""
        if routing is not None and routing.mode == "replace":
            return routing.values
        _, weights = self._net(params).adapter.mix(features.seen, routing)
        return weights

    def _read(self, params: Any, features: MovaFeatures, routing: Routing | None) -> tuple[MovaNet, Prompt]:
        net = self._net(params)
        image = net.image_tokens(features.seen, routing)
        return net, net.read(features.embeddings, features.mask, features.place, image, features.past)

    def answer_loss(
        self, params: Any, features: MovaFeatures, routing: Routing | None, answer: MovaAnswer
    ) -> Float[Array, ""]:
        """Mean cross-entropy of the answer's tokens, end token included."""
        net, prompt = self._read(params, features, routing)
        return -net.answer_logprobs(prompt, answer).sum() / jnp.maximum(answer.mask.sum(), 1)

    def answer_logprobs(
        self, params: Any, features: MovaFeatures, routing: Routing | None, candidates: MovaAnswer
    ) -> Float[Array, "C"]:
        """Total log-probability of each candidate; the prompt is read once."""
        net, prompt = self._read(params, features, routing)
        return jax.vmap(lambda answer: net.answer_logprobs(prompt, answer).sum())(candidates)

    def token_logprobs(
        self, params: Any, features: MovaFeatures, routing: Routing | None, answer: MovaAnswer
    ) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
        """Log-probability of every word at each place of the answer."""
        net, prompt = self._read(params, features, routing)
        return jax.nn.log_softmax(net.answer_logits(prompt, answer)), answer.mask

    def generate(
        self, params: Any, features: MovaFeatures, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        """Greedy answer tokens, padded behind the end token."""
        net, prompt = self._read(params, features, routing)
        return net.generate(prompt, max_new_tokens)

    def as_answer(self, tokens: Int[Array, "A"]) -> MovaAnswer:
        """Generated tokens as an answer: up to and with the end token."""
        ended = tokens == self.config.end
        return MovaAnswer(tokens, jnp.cumsum(ended) - ended == 0)
