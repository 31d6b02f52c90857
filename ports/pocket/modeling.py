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
from functools import cache, reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from ports.common.layers.stack import traced_keys
from ports.pocket.attention import MASKED, Context, attend, attend_states
from ports.pocket.config import PocketConfig
from ports.pocket.scenes import IMAGE
from ports.pocket.tokenizer import BEGIN, UNKNOWN
from r2t2_jax.contract import OUTER_PRODUCTS

SCORE_LIMIT = 40.0  # exp(40) and exp(-40) and their squares, by which a gradient divides, are normal float32 numbers


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


def rms_norm(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Unit root mean square along the last axis; no gain."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-5)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU in its tanh approximation, x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).

    In this form its gradient takes so few operations that XLA does not divide it among threads, which would cost more
    than it saves at these sizes.
    """
    return x * jax.nn.sigmoid(x * (1.5957691216 + 0.0713548163 * jnp.square(x)))


def convolve_patches(conv: nnx.Conv, x: Float[Array, "*B rows columns channels"]) -> Float[Array, "*B i j c"]:
    """A convolution whose windows do not overlap (stride = kernel size, no padding), as one product of all windows with
    the kernel. On a CPU it takes less time than XLA's convolution.
    """
    assert conv.bias is not None
    kernel = conv.kernel[...]
    height, width, inside, outside = kernel.shape
    *batch, rows, columns, _ = x.shape
    windows = x.reshape(*batch, rows // height, height, columns // width, width, inside).swapaxes(-4, -3)
    windows = windows.reshape(*windows.shape[:-3], height * width * inside)
    products = windows @ kernel.reshape(-1, outside)
    return products + jnp.broadcast_to(conv.bias[...], products.shape)


class VisionEncoder(nnx.Module):
    """A small convolutional encoder: a few numbers for each cell of the image."""

    def __init__(self, config: PocketConfig, rngs: nnx.Rngs):
        c1, c2, c3, c4 = config.convolutions
        self.conv1 = nnx.Conv(3, c1, (3, 3), strides=3, padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(c1, c2, (3, 3), strides=2, rngs=rngs)
        self.conv3 = nnx.Conv(c2, c3, (3, 3), strides=2, rngs=rngs)
        self.conv4 = nnx.Conv(c3, c4, (2, 2), strides=2, padding="VALID", rngs=rngs)
        self.position_embedding = nnx.Param(jnp.zeros((config.cells, c4)))
        self.bottleneck = nnx.Linear(c4, config.expert_width, rngs=rngs)

    def __call__(self, image: UInt8[Array, "*B 96 96 3"]) -> Float[Array, "*B I F"]:
        x = image.astype(jnp.float32) / 127.5 - 1.0
        x = nnx.gelu(convolve_patches(self.conv1, x))  # [*B, 32, 32, c1]
        x = nnx.gelu(self.conv2(x))  # [*B, 16, 16, c2]
        x = nnx.gelu(self.conv3(x))  # [*B, 8, 8, c3]
        x = nnx.gelu(convolve_patches(self.conv4, x))  # [*B, 4, 4, c4]
        x = x.reshape(*x.shape[:-3], -1, x.shape[-1])  # [*B, I, c4]
        return rms_norm(self.bottleneck(x + jnp.broadcast_to(self.position_embedding[...], x.shape)))


class Mixer(nnx.Module):
    """x + scale * sum_e r_e * attention_e(x, expert e), each expert with its own projections."""

    def __init__(self, config: PocketConfig, rngs: nnx.Rngs):
        experts, cells = len(config.experts), config.cells

        def projection(inside: int, outside: int) -> nnx.Param:
            return nnx.Param(inside**-0.5 * jax.random.normal(rngs.params(), (experts, inside, outside)))

        self.q_proj = projection(config.channel, config.key_width)
        self.k_proj = projection(config.expert_width, config.key_width)
        self.v_proj = projection(config.expert_width, config.channel)
        self.prior = nnx.Param(jnp.full((experts,), 4.0))  # added to the score of a cell with itself
        self.scale = nnx.Param(jnp.asarray(2.0))
        self.cells = cells

    @jax.named_scope("mixer")
    def keys_values(self, vision: Float[Array, "E I F"]) -> tuple[Float[Array, "E I Q"], Float[Array, "E I W"]]:
        """Keys and values of the experts; independent of routing."""
        return jnp.einsum("eif,efq->eiq", vision, self.k_proj[...]), jnp.einsum(
            "eif,efw->eiw", vision, self.v_proj[...]
        )

    @jax.named_scope("mixer")
    def run_experts(
        self, x: Float[Array, "I W"], keys: Float[Array, "E I Q"], values: Float[Array, "E I W"]
    ) -> Float[Array, "E I W"]:
        """Each expert's output for every cell of the stream."""
        query = jnp.einsum("iw,ewq->eiq", rms_norm(x), self.q_proj[...])
        scores = jnp.einsum("eiq,ejq->eij", query, keys) / jnp.sqrt(float(keys.shape[-1]))
        scores = scores + self.prior[...][:, None, None] * jnp.eye(self.cells)[None]
        return jax.nn.softmax(scores, axis=-1) @ values

    @jax.named_scope("mixer")
    def combine_experts(
        self, x: Float[Array, "I W"], outputs: Float[Array, "E I W"], weights: Float[Array, "E"]
    ) -> Float[Array, "I W"]:
        """The stream plus the weighted sum of the experts' outputs."""
        with jax.named_scope(OUTER_PRODUCTS):  # a dot would transpose the outputs of all neighbors in every step
            combined = reduce(add, (weights[e] * outputs[e] for e in range(len(weights))))
        return x + self.scale[...] * combined

    @jax.named_scope("mixer")
    def __call__(
        self,
        x: Float[Array, "I W"],
        keys: Float[Array, "E I Q"],
        values: Float[Array, "E I W"],
        weights: Float[Array, "E"],
    ) -> Float[Array, "I W"]:
        """As `combine_experts` of `run_experts`, with one product over all experts' cells for the scores and one for
        the sum; query projection and keys are one matrix, which does not depend on the stream. Routing weights multiply
        the attention where it is normalized, so that the values are constants. The largest score of a row is not
        subtracted before the exponential, which on a CPU takes several times as long: `largest_scores` bounds them.
        """
        cells, width = x.shape
        query_keys = jnp.einsum("ewq,ejq->wej", self.q_proj[...], keys) / jnp.sqrt(float(keys.shape[-1]))
        prior = (self.prior[...][None, :, None] * jnp.eye(cells)[:, None]).reshape(cells, -1)
        attention = jnp.exp(rms_norm(x) @ query_keys.reshape(width, -1) + prior).reshape(cells, -1, cells)  # [I, E, I]
        shares = self.scale[...] * weights[None, :, None] / attention.sum(axis=-1, keepdims=True)  # [I, E, 1]
        return x + (shares * attention).reshape(cells, -1) @ values.reshape(-1, width)

    def largest_scores(self) -> Float[Array, "E"]:
        """Numbers that no score of an expert exceeds, as stream and vision features have a root mean square of one."""
        (_, width, key_width), expert_width = self.q_proj.shape, self.k_proj.shape[1]
        query_norm, key_norm = (jnp.linalg.norm(weights[...], axis=(1, 2)) for weights in (self.q_proj, self.k_proj))
        products = query_norm * key_norm * (width * expert_width / key_width) ** 0.5
        return products + jnp.maximum(self.prior[...], 0.0)


class Block(nnx.Module):
    """A pre-norm transformer block whose keys and values can be computed apart from its queries."""

    def __init__(self, config: PocketConfig, rngs: nnx.Rngs):
        width, hidden = config.width, config.hidden
        self.heads = config.heads
        self.scale = (width // config.heads) ** -0.5
        self.q_proj = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.kv_proj = nnx.Linear(width, 2 * width, use_bias=False, rngs=rngs)
        self.o_proj = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.up_proj = nnx.Linear(width, hidden, rngs=rngs)
        self.down_proj = nnx.Linear(hidden, width, rngs=rngs)

    def keys_values(self, x: Float[Array, "T D"]) -> tuple[Float[Array, "T D"], Float[Array, "T D"]]:
        """Keys and values of these tokens."""
        keys, values = jnp.split(self.kv_proj(rms_norm(x)), 2, axis=-1)
        return keys, values

    def __call__(
        self, x: Float[Array, "T D"], keys: Float[Array, "S D"], values: Float[Array, "S D"], mask: Bool[Array, "T S"]
    ) -> Float[Array, "T D"]:
        def split(y: Array) -> Array:
            return y.reshape(y.shape[0], self.heads, -1).swapaxes(0, 1)  # [H, T, D / H]

        query, key, value = split(self.q_proj(rms_norm(x))), split(keys), split(values)
        scores = query @ key.swapaxes(1, 2) / jnp.sqrt(float(query.shape[-1]))  # [H, T, S]
        attended = jax.nn.softmax(scores + jnp.where(mask, 0.0, MASKED)[None], axis=-1) @ value
        x = x + self.o_proj(attended.swapaxes(0, 1).reshape(x.shape))
        return x + self.down_proj(gelu(self.up_proj(rms_norm(x))))

    def joint(
        self,
        x: Float[Array, "R D"],
        context: tuple[Float[Array, "T D"], Float[Array, "T D"]],
        mask: Bool[Array, "R T+R"],
    ) -> Float[Array, "R D"]:
        """As `__call__` for R tokens that attend to a context and to each other.

        Args:
            x: states of the tokens.
            context: keys, multiplied with `scale`, and values of T more tokens, the same in every step of a search.
            mask: true where a token sees one of the context, or one of the R.
        """
        normed = rms_norm(x)
        key, value = jnp.split(self.kv_proj.kernel[...], 2, axis=-1)  # two products: no slice of a result is copied
        query, keys, values = (self.split_heads(normed @ w) for w in (self.q_proj.kernel[...], key * self.scale, value))
        attended = attend(query, self.split_context(context), keys, values, mask)
        return self.after_attention(x, attended)

    def joint_last(
        self,
        x: Float[Array, "R D"],
        context: tuple[Float[Array, "T D"], Float[Array, "T D"]],
        mask: Bool[Array, "Q T+R"],
    ) -> Float[Array, "Q D"]:
        """As `joint` for the last Q of R tokens, without the keys and values of the R tokens."""
        normed, first = rms_norm(x), len(x) - len(mask)
        key, value = (self.split_heads(w) for w in jnp.split(self.kv_proj.kernel[...], 2, axis=-1))  # [D, H, D / H]
        query = self.split_heads(self.q_proj(normed[first:]))
        projected = jnp.einsum("qhd,chd->qhc", query, key * self.scale)
        mixed, attended = attend_states(query, projected, self.split_context(context), normed, mask)
        return self.after_attention(x[first:], attended + jnp.einsum("qhc,chd->qhd", mixed, value))

    def after_attention(self, x: Float[Array, "Q D"], attended: Float[Array, "Q H D/H"]) -> Float[Array, "Q D"]:
        """The rest of the block."""
        x = x + self.o_proj(attended.reshape(x.shape))
        return x + self.down_proj(gelu(self.up_proj(rms_norm(x))))

    def split_heads(self, y: Float[Array, "N D"]) -> Float[Array, "N H D/H"]:
        return y.reshape(y.shape[0], self.heads, -1)

    def split_context(self, context: tuple[Float[Array, "T D"], Float[Array, "T D"]]) -> Context:
        """Keys and values by head."""
        keys, values = context
        return self.split_heads(keys), self.split_heads(values)


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
