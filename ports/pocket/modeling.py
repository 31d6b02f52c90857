"""The pocket model in Flax NNX: frozen vision experts, mixers with explicit routing, a small language model.

    image ─► base encoder ─► x ─► x + scale * sum_e r_e * expert_e(x)  (a mixer, twice) ─► projector ─┐
    image ─► six experts ────────────────┘                                                            ▼
    question ─────────────────────────────────────────────────► language model: [question | image | answer]

The question stands before the image, so that its keys and values, like everything before the first sum over experts,
do not depend on routing and are computed once (`encode`).

Axis letters: L mixers, E experts, T question tokens, I image cells, W channel, F expert features, D width, Q key width,
A answer tokens, V vocabulary, H heads. The methods take one sample; batches are `vmap` outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from ports.common.layers.stack import traced_keys
from ports.pocket.config import PocketConfig
from ports.pocket.layers import Block, Mixer, VisionEncoder, gelu, rms_norm
from ports.pocket.scenes import IMAGE
from ports.pocket.tokenizer import BEGIN, UNKNOWN


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PocketInputs:
    """The model's inputs for one sample."""

    image: UInt8[Array, "96 96 3"]
    tokens: Int[Array, "T"]
    mask: Bool[Array, "T"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PocketAnswer:
    """Answer tokens, end-of-turn token included, padded to A."""

    tokens: Int[Array, "A"]
    mask: Bool[Array, "A"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PocketFeatures:
    """Everything that does not depend on routing."""

    stream: Float[Array, "I W"]
    first: Float[Array, "E I W"]  # the first mixer's expert outputs
    keys: Float[Array, "L E I Q"]
    values: Float[Array, "L E I W"]
    question_keys: Float[Array, "depth T D"]
    question_values: Float[Array, "depth T D"]
    question_mask: Bool[Array, "T"]
    question: Float[Array, "D"]  # the gate's other input, next to the stream


class Gate(nnx.Module):
    """Logits over the experts of every mixer from the question and the mean of the image stream."""

    def __init__(self, config: PocketConfig, rngs: nnx.Rngs):
        self.shape = (config.mixers, len(config.experts))
        self.up_proj = nnx.Linear(config.width + config.channel, config.gate_hidden, rngs=rngs)
        self.down_proj = nnx.Linear(
            config.gate_hidden, config.mixers * len(config.experts), kernel_init=nnx.initializers.zeros, rngs=rngs
        )

    def __call__(self, question: Float[Array, "D"], stream: Float[Array, "I W"]) -> Float[Array, "L E"]:
        return self.down_proj(nnx.gelu(self.up_proj(self.inputs(question, stream)))).reshape(self.shape)

    def inputs(self, question: Float[Array, "D"], stream: Float[Array, "I W"]) -> Float[Array, "D+W"]:
        """The vector that the gate reads."""
        return jnp.concatenate([rms_norm(question), stream.mean(axis=0)])


class PocketNet(nnx.Module):
    """Every parameter of the model; the methods take one sample."""

    def __init__(self, config: PocketConfig, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.base = VisionEncoder(config, rngs)
        self.experts = nnx.List([VisionEncoder(config, rngs) for _ in config.experts])
        self.stream = nnx.Linear(config.expert_width, config.channel, rngs=rngs)
        self.mixers = nnx.List([Mixer(config, rngs) for _ in range(config.mixers)])
        self.project_in = nnx.Linear(config.channel, width, rngs=rngs)
        self.project_out = nnx.Linear(width, width, rngs=rngs)
        normal = nnx.initializers.normal(0.5)
        self.embed_tokens = nnx.Param(normal(rngs.params(), (config.vocab_size, width)))
        self.question_position_embedding = nnx.Param(0.2 * normal(rngs.params(), (config.question_length, width)))
        self.image_position_embedding = nnx.Param(0.2 * normal(rngs.params(), (config.cells, width)))
        self.answer_position_embedding = nnx.Param(0.2 * normal(rngs.params(), (config.answer_length, width)))
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.depth)])
        self.lm_head = nnx.Linear(width, config.vocab_size, use_bias=False, rngs=rngs)
        self.gate = Gate(config, rngs)

    @jax.named_scope("vision")
    def encode_image(self, image: UInt8[Array, "*B 96 96 3"]) -> Float[Array, "*B E+1 I F"]:
        """Features of the experts, then of the base encoder."""
        return jnp.stack([encoder(image) for encoder in (*self.experts, self.base)], axis=-3)

    @jax.named_scope("question")
    def prefill_question(
        self, tokens: Int[Array, "T"], mask: Bool[Array, "T"]
    ) -> tuple[Float[Array, "depth+1 T D"], Float[Array, "depth T D"], Float[Array, "depth T D"]]:
        """States before every block and after the last, and every block's keys and values."""
        length = tokens.shape[0]
        x = self.embed_tokens[...][tokens] + self.question_position_embedding[...]
        causal = jnp.tril(jnp.ones((length, length), bool)) & mask[None]  # [T, T]
        states, keys, values = [x], [], []
        for block in self.blocks:
            key, value = block.keys_values(x)
            x = block(x, key, value, causal)
            states.append(x)
            keys.append(key)
            values.append(value)
        return jnp.stack(states), jnp.stack(keys), jnp.stack(values)

    def encode(
        self, vision: Float[Array, "E+1 I F"], tokens: Int[Array, "T"], mask: Bool[Array, "T"]
    ) -> PocketFeatures:
        """Everything that does not depend on routing; `vision` is `encode_image(image)`."""
        stream = self.stream(vision[-1])  # [I, W]
        projected = [mixer.keys_values(vision[:-1]) for mixer in self.mixers]
        keys, values = (jnp.stack(part) for part in zip(*projected, strict=True))
        states, question_keys, question_values = self.prefill_question(tokens, mask)
        last = jnp.maximum(mask.sum() - 1, 0)
        return PocketFeatures(
            stream=stream,
            first=self.mixers[0].run_experts(stream, keys[0], values[0]),
            keys=keys,
            values=values,
            question_keys=question_keys,
            question_values=question_values,
            question_mask=mask,
            question=states[-1, last],
        )

    @jax.named_scope("gate")
    def gate_logits(self, features: PocketFeatures) -> Float[Array, "L E"]:
        """The gate's logits. They are not part of `encode`, so both gates can read the same features."""
        return self.gate(features.question, features.stream)

    def combine_experts(self, features: PocketFeatures, weights: Float[Array, "L E"]) -> Float[Array, "I W"]:
        """The image stream after all mixers, at unit scale."""
        x = self.mixers[0].combine_experts(features.stream, features.first, weights[0])
        for layer in range(1, len(self.mixers)):
            x = self.mixers[layer](x, features.keys[layer], features.values[layer], weights[layer])
        return rms_norm(x)

    @jax.named_scope("projector")
    def project(self, stream: Float[Array, "I W"]) -> Float[Array, "I D"]:
        """Image tokens of the language model."""
        return self.project_out(gelu(self.project_in(stream))) + self.image_position_embedding[...]

    @jax.named_scope("prompt")
    def prefill_image(
        self, features: PocketFeatures, image: Float[Array, "I D"]
    ) -> tuple[Float[Array, "depth T+I D"], Float[Array, "depth T+I D"], Float[Array, "depth I D"]]:
        """Keys and values of [question | image] in every block, and the image's states before every block.

        Image tokens attend to the question and to each other. Their states after the last block are not used, so that
        block computes only their keys and values.
        """
        cells = image.shape[0]
        mask = jnp.concatenate([features.question_mask, jnp.ones(cells, bool)])
        mask = jnp.broadcast_to(mask, (cells, mask.shape[0]))
        x, keys, values, states = image, [], [], []
        for number, block in enumerate(self.blocks):
            states.append(x)
            key, value = block.keys_values(x)
            keys.append(jnp.concatenate([features.question_keys[number], key]))
            values.append(jnp.concatenate([features.question_values[number], value]))
            if number < len(self.blocks) - 1:
                x = block(x, keys[-1], values[-1], mask)
        return jnp.stack(keys), jnp.stack(values), jnp.stack(states)

    @jax.named_scope("answer_tokens")
    def answer_logits(
        self,
        keys: Float[Array, "depth T+I D"],
        values: Float[Array, "depth T+I D"],
        question_mask: Bool[Array, "T"],
        tokens: Int[Array, "A"],
    ) -> Float[Array, "A V"]:
        """Logits of the next token after each of `tokens`, the first of which is BEGIN."""
        length = tokens.shape[0]
        context = jnp.concatenate([question_mask, jnp.ones(self.config.cells, bool)])
        mask = jnp.concatenate(
            [jnp.broadcast_to(context, (length, context.shape[0])), jnp.tril(jnp.ones((length, length), bool))], axis=1
        )
        x = self.embed_answer(tokens)
        for number, block in enumerate(self.blocks):
            key, value = block.keys_values(x)
            x = block(x, jnp.concatenate([keys[number], key]), jnp.concatenate([values[number], value]), mask)
        return self.lm_head(rms_norm(x))

    def embed_answer(self, tokens: Int[Array, "A"]) -> Float[Array, "A D"]:
        """States of answer tokens before the first block."""
        return self.embed_tokens[...][tokens] + self.answer_position_embedding[...][: tokens.shape[0]]

    @jax.named_scope("prompt")
    def joint_logits(
        self, features: PocketFeatures, image: Float[Array, "I D"], tokens: Int[Array, "A"]
    ) -> Float[Array, "A V"]:
        """As `answer_logits` after `prefill_image`, in one pass of image and answer tokens through the blocks.

        A pass of 19 rows takes less time than one of 16 and one of 3. Image tokens do not see the answer: these scores
        are computed and masked. In the last block only answer tokens have queries. Padded tokens of the question get
        values of zero, and keys are scaled, products that XLA moves out of a loop of descent steps, which it does not
        do with a slice.
        """
        cells, rows = image.shape[0], jnp.arange(image.shape[0] + tokens.shape[0])
        visible = rows[None] <= jnp.maximum(rows, cells - 1)[:, None]  # [I + A, I + A]
        question = jnp.broadcast_to(features.question_mask, (len(rows), features.question_mask.shape[0]))
        mask = jnp.concatenate([question, visible], axis=1)  # [I + A, T + I + A]
        *blocks, last = self.blocks

        def context(number: int) -> tuple[Float[Array, "T D"], Float[Array, "T D"]]:
            keys, values = features.question_keys[number], features.question_values[number]
            return keys * last.scale, values * features.question_mask[:, None]

        x = jnp.concatenate([image, self.embed_answer(tokens)])
        for number, block in enumerate(blocks):
            x = block.joint(x, context(number), mask)
        x = last.joint_last(x, context(-1), mask[cells:])
        return self.lm_head(rms_norm(x))


def shift_right(tokens: Int[Array, "A"]) -> Int[Array, "A"]:
    """The inputs that predict `tokens`: BEGIN, then all tokens but the last."""
    return jnp.concatenate([jnp.array([BEGIN], tokens.dtype), tokens[:-1]])


def create(config: PocketConfig, rngs: nnx.Rngs) -> PocketNet:
    """The model with random parameters."""
    return PocketNet(config, rngs)


@cache  # both gates share one structure
def abstract(config: PocketConfig) -> tuple[Any, Any]:
    """Structure of the model, and its parameters as shapes."""
    return nnx.split(nnx.eval_shape(lambda: create(config, traced_keys(0))))


def count_parameters(config: PocketConfig) -> int:
    """The number of parameters, one gate included."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract(config)[1]))


def fake_inputs(config: PocketConfig) -> PocketInputs:
    """Inputs of the right shapes: a gray image and a question of unknown words."""
    return PocketInputs(
        jnp.full((IMAGE, IMAGE, 3), 128, jnp.uint8),
        jnp.full(config.question_length, UNKNOWN),
        jnp.ones(config.question_length, bool),
    )
