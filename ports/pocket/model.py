"""The pocket model as a routed model: the functions of `r2t2_jax.contract.RoutedModel` over `modeling.py`.

Axis letters: L mixers, E experts, A answer tokens, C candidates, D width, W channel, V vocabulary, I image
cells. One sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.pocket.config import PocketConfig
from ports.pocket.modeling import PocketAnswer, PocketFeatures, PocketInputs, PocketNet, shift_right
from ports.pocket.tokenizer import BEGIN, END, PAD
from r2t2_jax.routing import Routing, RoutingSpec


@dataclass(frozen=True)
class PocketModel:
    """The contract's functions on one traced sample. `graph` is the structure of the NNX modules."""

    config: PocketConfig
    graph: Any = field(hash=False)  # follows from config; each call would hash it in 1 ms

    cpu_vmap_size = 4  # more take memory and no less time (docs/speed.md)

    @property
    def spec(self) -> RoutingSpec:
        return self.config.spec

    def encode(self, params: Any, inputs: PocketInputs) -> PocketFeatures:
        """The image stream, the first mixer's expert outputs, and the keys and values of experts and question."""
        net = nnx.merge(self.graph, params)
        return net.encode(net.encode_image(inputs.image), inputs.tokens, inputs.mask)

    def route(self, params: Any, features: PocketFeatures, routing: Routing | None = None) -> Float[Array, "L E"]:
        """The routing weights in effect."""
        if routing is not None and routing.mode == "replace":
            return routing.values
        logits = nnx.merge(self.graph, params).gate_logits(features)
        return jax.nn.softmax(logits if routing is None else logits + routing.values)

    def gate_input(self, params: Any, features: PocketFeatures) -> Float[Array, "D+W"]:
        """The gate's input: the question's last state and the mean of the image stream."""
        return nnx.merge(self.graph, params).gate.inputs(features.question, features.stream)

    def _image(
        self, params: Any, features: PocketFeatures, routing: Routing | None
    ) -> tuple[PocketNet, Float[Array, "I D"]]:
        """The modules, and the image tokens under a routing."""
        net = nnx.merge(self.graph, params)
        return net, net.project(net.combine_experts(features, self.route(params, features, routing)))

    def _prefill(
        self, params: Any, features: PocketFeatures, routing: Routing | None
    ) -> tuple[PocketNet, Array, Array]:
        net, image = self._image(params, features, routing)
        keys, values, _ = net.prefill_image(features, image)
        return net, keys, values

    def _logprobs(
        self, net: PocketNet, keys: Array, values: Array, features: PocketFeatures, answer: PocketAnswer
    ) -> Float[Array, "A"]:
        """Log-probability of each answer token after a prefilled image, zero where padded."""
        logits = net.answer_logits(keys, values, features.question_mask, shift_right(answer.tokens))
        return pick_answer(jax.nn.log_softmax(logits), answer)

    def token_logprobs(
        self, params: Any, features: PocketFeatures, routing: Routing | None, answer: PocketAnswer
    ) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
        """Log-probability of every token of the vocabulary at each position of the answer, and the answer's mask."""
        net, image = self._image(params, features, routing)
        return jax.nn.log_softmax(net.joint_logits(features, image, shift_right(answer.tokens))), answer.mask

    def answer_loss(
        self, params: Any, features: PocketFeatures, routing: Routing | None, answer: PocketAnswer
    ) -> Float[Array, ""]:
        """Mean cross-entropy of the answer's tokens, end-of-turn token included."""
        logprobs, mask = self.token_logprobs(params, features, routing, answer)
        return -pick_answer(logprobs, answer).sum() / mask.sum()

    def answer_logprobs(
        self, params: Any, features: PocketFeatures, routing: Routing | None, candidates: PocketAnswer
    ) -> Float[Array, "C"]:
        """Total log-probability of each candidate; the image is read once."""
        net, keys, values = self._prefill(params, features, routing)
        return jax.vmap(lambda answer: self._logprobs(net, keys, values, features, answer).sum())(candidates)

    def generate(
        self, params: Any, features: PocketFeatures, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        """Greedy answer tokens. Answers have at most three tokens, so every step runs all positions again."""
        net, keys, values = self._prefill(params, features, routing)
        length = min(max_new_tokens, self.config.answer_length)

        def step(tokens: Array, position: Array) -> tuple[Array, Array]:
            logits = net.answer_logits(keys, values, features.question_mask, tokens[:-1])
            chosen = logits[position].argmax().astype(tokens.dtype)
            done = jnp.any((tokens == END) & (jnp.arange(length + 1) <= position))
            chosen = jnp.where(done, PAD, chosen)
            return tokens.at[position + 1].set(chosen), chosen

        start = jnp.full(length + 1, PAD, jnp.int32).at[0].set(BEGIN)
        _, answer = jax.lax.scan(step, start, jnp.arange(length))
        return jnp.pad(answer, (0, max_new_tokens - length), constant_values=PAD)

    def as_answer(self, tokens: Int[Array, "A"]) -> PocketAnswer:
        """Generated tokens as an answer, up to and with the end token."""
        tokens = tokens[: self.config.answer_length]
        ended = tokens == END
        return PocketAnswer(tokens, (tokens != PAD) & (jnp.cumsum(ended) - ended == 0))


def pick_answer(logprobs: Float[Array, "A V"], answer: PocketAnswer) -> Float[Array, "A"]:
    """The log-probability of each answer token, zero where padded."""
    picked = jnp.take_along_axis(logprobs, answer.tokens[:, None], axis=1)[:, 0]
    return jnp.where(answer.mask, picked, 0.0)
