"""MoAI as a routed model: the functions of `r2t2_jax.contract.RoutedModel` over `modeling.py` and `generate.py`.

Axis letters: L mixers, E = 6 experts, A answer tokens, C candidates, D width, V vocabulary. One sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.moai.batch import MoAIAnswer, MoAIFeatures, MoAIInputs
from ports.moai.config import MoAIConfig
from ports.moai.generate import answer_logprobs, beam_search, greedy_search, vocabulary_logprobs
from ports.moai.modeling import MoAINet
from r2t2_jax.routing import Routing, RoutingSpec


@dataclass(frozen=True)
class MoAIModel:
    """The contract's functions; traced, one sample. `graph` is the graph definition of the NNX modules."""

    config: MoAIConfig
    graph: Any = field(hash=False)  # follows from config; each call would hash it in 1 ms

    @property
    def spec(self) -> RoutingSpec:
        return self.config.spec

    def _net(self, params: Any) -> MoAINet:
        return nnx.merge(self.graph, params)

    def encode(self, params: Any, inputs: MoAIInputs) -> MoAIFeatures:
        """Both tower passes, the compressor, the layers before the first mixer, and that mixer's expert outputs."""
        return self._net(params).encode(inputs)

    def route(self, params: Any, features: MoAIFeatures, routing: Routing | None = None) -> Float[Array, "L E"]:
        """The routing weights in effect: the gates' means over the tokens of each side.

        Gates act on each token, so replacing them by these means changes the output.
        """
        if routing is not None and routing.mode == "replace":
            return routing.values
        _, _, means = self._net(params).prefill(features, routing)
        return means

    def answer_loss(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, answer: MoAIAnswer
    ) -> Float[Array, ""]:
        """Mean cross-entropy of the answer's tokens, run without mixers and adapters as in decoding."""
        net = self._net(params)
        x, cache, _ = net.prefill(features, routing)
        return -answer_logprobs(net, x, cache, features, answer).sum() / jnp.maximum(answer.mask.sum(), 1)

    def answer_logprobs(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, candidates: MoAIAnswer
    ) -> Float[Array, "C"]:
        """Total log-probability of each candidate; the prompt is prefilled once."""
        net = self._net(params)
        x, cache, _ = net.prefill(features, routing)
        return jax.vmap(lambda answer: answer_logprobs(net, x, cache, features, answer).sum())(candidates)

    def token_logprobs(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, answer: MoAIAnswer
    ) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
        """Log-probability of every token of the vocabulary at each position of the answer, and the answer's mask."""
        net = self._net(params)
        x, cache, _ = net.prefill(features, routing)
        return vocabulary_logprobs(net, x, cache, features, answer), answer.mask

    def generate(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        """Greedy answer tokens, padded after the end of turn."""
        net = self._net(params)
        x, cache, _ = net.prefill(features, routing)
        return greedy_search(net, net.logits(x)[0], cache, features.layout, max_new_tokens)

    def generate_beams(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, max_new_tokens: int, num_beams: int = 3
    ) -> Int[Array, "A"]:
        """The best answer of a beam search; three beams are the published setting."""
        net = self._net(params)
        x, cache, _ = net.prefill(features, routing)
        return beam_search(net, net.logits(x)[0], cache, features.layout, max_new_tokens, num_beams)

    def as_answer(self, tokens: Int[Array, "A"]) -> MoAIAnswer:
        """Generated tokens as an answer: up to the first that stops decoding, which is included."""
        ended = (tokens[:, None] == jnp.asarray(self.config.stop_ids)[None]).any(axis=1)
        return MoAIAnswer(tokens, jnp.cumsum(ended) - ended == 0)
