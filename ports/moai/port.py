"""MoAI as a routed model: the contract over `modeling.py` and `continuation.py`.

Axis letters: L mixers, E = 6 experts, A answer tokens, C candidates, D width, S slots of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ports.moai.config import MoAIConfig
from ports.moai.continuation import run_tokens
from ports.moai.data import Cache, MoAIAnswer, MoAIFeatures, MoAIInputs
from ports.moai.decoding import beams, greedy
from ports.moai.modeling import MoAINet
from r2t2_jax.routing import Routing, RoutingSpec


@dataclass(frozen=True)
class MoAIModel:
    """The contract's functions; traced, one sample. `graph` is the structure of the NNX modules."""

    config: MoAIConfig
    graph: Any

    @property
    def spec(self) -> RoutingSpec:
        return self.config.spec

    def _net(self, params: Any) -> MoAINet:
        return nnx.merge(self.graph, params)

    def encode(self, params: Any, inputs: MoAIInputs) -> MoAIFeatures:
        """The tower twice, the compressor, the layers before the first mixer, and that mixer's six expert outputs."""
        return self._net(params).encode(inputs)

    def route(self, params: Any, features: MoAIFeatures, routing: Routing | None = None) -> Float[Array, "L E"]:
        """The weights in effect: the gates' mean over the tokens of each side. Replacing by it is itself a change."""
        if routing is not None and routing.mode == "replace":
            return routing.values
        _, _, means = self._net(params).read(features, routing)
        return means

    def answer_loss(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, answer: MoAIAnswer
    ) -> Float[Array, ""]:
        """Mean cross-entropy of the answer's tokens, which no mixer and no adapter sees: the case of decoding."""
        net = self._net(params)
        x, cache, _ = net.read(features, routing)
        return -_logprobs(net, x, cache, features, answer).sum() / jnp.maximum(answer.mask.sum(), 1)

    def answer_logprobs(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, candidates: MoAIAnswer
    ) -> Float[Array, "C"]:
        """Total log-probability of each candidate; the prompt is read once."""
        net = self._net(params)
        x, cache, _ = net.read(features, routing)
        return jax.vmap(lambda answer: _logprobs(net, x, cache, features, answer).sum())(candidates)

    def generate(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        """Greedy answer tokens, padded after the end of the turn."""
        net = self._net(params)
        x, cache, _ = net.read(features, routing)
        return greedy(net, net.logits(x)[0], cache, features.layout, max_new_tokens)

    def generate_beams(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, max_new_tokens: int, num_beams: int = 3
    ) -> Int[Array, "A"]:
        """The best answer that a beam search finds; three beams are the published setting."""
        net = self._net(params)
        x, cache, _ = net.read(features, routing)
        return beams(net, net.logits(x)[0], cache, features.layout, max_new_tokens, num_beams)

    def as_answer(self, tokens: Int[Array, "A"]) -> MoAIAnswer:
        """Generated tokens as an answer: up to and with the first that stops decoding."""
        ended = (tokens[:, None] == jnp.asarray(self.config.stop_ids)[None]).any(axis=1)
        return MoAIAnswer(tokens, jnp.cumsum(ended) - ended == 0)


def _logprobs(
    net: MoAINet, x: Float[Array, "1 D"], cache: Cache, features: MoAIFeatures, answer: MoAIAnswer
) -> Float[Array, "A"]:
    """Log-probability of each answer token, zero where padded; `x` is the prompt's last row."""
    if answer.tokens.shape[0] > 1:
        after = run_tokens(net, answer.tokens[:-1], features.layout.length, cache, features.layout.valid)
        x = jnp.concatenate([x, after])  # [A, D]
    logprobs = jax.nn.log_softmax(net.logits(x))  # [A, V]
    picked = jnp.take_along_axis(logprobs, answer.tokens[:, None], axis=1)[:, 0]
    return jnp.where(answer.mask, picked, 0.0)
