"""MoVA as a routed model: the functions of `r2t2_jax.contract.RoutedModel` over `modeling.py`.

Axis letters: L adapter blocks, E = 7 experts, A answer tokens, C candidates, V vocabulary. One sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.mova.batch import MovaAnswer, MovaFeatures, MovaInputs, PrefilledPrompt
from ports.mova.config import MovaConfig
from ports.mova.modeling import MovaNet
from r2t2_jax.routing import Routing, RoutingSpec


@dataclass(frozen=True)
class MovaModel:
    """The contract's functions; traced, one sample. `graph` is the graph definition of the NNX modules."""

    config: MovaConfig
    graph: Any = field(hash=False)  # follows from config; each call would hash it in 1 ms

    @property
    def spec(self) -> RoutingSpec:
        return self.config.spec

    def _net(self, params: Any) -> MovaNet:
        return nnx.merge(self.graph, params)

    def encode(self, params: Any, inputs: MovaInputs) -> MovaFeatures:
        """BERT's question vector, prompt embeddings, the cross-attention of block 0, and what `keep` adds."""
        return self._net(params).encode(inputs)

    def support(self, features: MovaFeatures) -> Bool[Array, "*B L E"]:
        """The experts on which a sample's r may be nonzero: those of its coarse pass, or all experts that were run."""
        experts = features.adapter.coarse if self.config.support == "selected" else features.adapter.available
        return jnp.broadcast_to(experts[..., None, :], (*experts.shape[:-1], *self.spec.shape))

    def route(self, params: Any, features: MovaFeatures, routing: Routing | None = None) -> Float[Array, "L E"]:
        """The routing weights in effect in each block. Later gates depend on the weights of earlier blocks."""
        if routing is not None and routing.mode == "replace":
            return routing.values
        _, weights = self._net(params).adapter.run_blocks(features.adapter, routing)
        return weights

    def _prefill(self, params: Any, features: MovaFeatures, routing: Routing | None) -> tuple[MovaNet, PrefilledPrompt]:
        net = self._net(params)
        image = net.image_tokens(features.adapter, routing)
        prompt = net.prefill(features.embeddings, features.mask, features.image_position, image, features.past)
        return net, prompt

    def answer_loss(
        self, params: Any, features: MovaFeatures, routing: Routing | None, answer: MovaAnswer
    ) -> Float[Array, ""]:
        """Mean cross-entropy of the answer's tokens, end token included."""
        net, prompt = self._prefill(params, features, routing)
        return -net.answer_logprobs(prompt, answer).sum() / jnp.maximum(answer.mask.sum(), 1)

    def answer_logprobs(
        self, params: Any, features: MovaFeatures, routing: Routing | None, candidates: MovaAnswer
    ) -> Float[Array, "C"]:
        """Total log-probability of each candidate; the prompt is prefilled once."""
        net, prompt = self._prefill(params, features, routing)
        return jax.vmap(lambda answer: net.answer_logprobs(prompt, answer).sum())(candidates)

    def token_logprobs(
        self, params: Any, features: MovaFeatures, routing: Routing | None, answer: MovaAnswer
    ) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
        """Log-probability of every token of the vocabulary at each position of the answer, and the answer's mask."""
        net, prompt = self._prefill(params, features, routing)
        return jax.nn.log_softmax(net.answer_logits(prompt, answer)), answer.mask

    def generate(
        self, params: Any, features: MovaFeatures, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        """Greedy answer tokens, padded after the end token."""
        net, prompt = self._prefill(params, features, routing)
        return net.generate(prompt, max_new_tokens)

    def as_answer(self, tokens: Int[Array, "A"]) -> MovaAnswer:
        """Generated tokens as an answer: up to the end token, which is included."""
        ended = tokens == self.config.end
        return MovaAnswer(tokens, jnp.cumsum(ended) - ended == 0)
