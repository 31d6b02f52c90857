"""MoVA, whole: towers, adapter, language model, and what passes between them.

    tile ─► CLIP ─────────────┐
    views ─► seven experts ───┤   adapter under routing weights r [L, E]
    question ─► BERT ─► gates ┘        │
                                       ▼
    prompt with one IMAGE ─► [before | image tokens | after] ─► Llama ─► answer

Axis letters: L adapter blocks, E experts, N tokens of the map, C channels of an expert, D width of the adapter, M text
width, I image tokens, T prompt tokens with IMAGE among them, S = T - 1 + I tokens of the merged prompt, W words of the
question, A answer tokens, O the language model's width, V vocabulary, P patches, or tokens of the prefix. One sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.attention import causal_mask
from ports.common.layers.bert import Bert
from ports.common.layers.clip_vit import ClipVit
from ports.common.layers.decoder import Decoder, KVCache
from ports.common.layers.linear import linear, normal
from ports.common.layers.stack import traced_keys
from ports.mova.adapter.adapter import Adapter, Seen
from ports.mova.config import MovaConfig
from ports.mova.layers import align, bilinear, nearest, pool
from ports.mova.towers.biomedclip import BiomedClip
from ports.mova.towers.codetr import CoDetr
from ports.mova.towers.dinov2 import DinoV2
from ports.mova.towers.pix2struct import Pix2Struct
from ports.mova.towers.sam import Sam, Vary
from r2t2_jax.routing import Routing

IMAGE = -200  # stands in the prompt where the image tokens go


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Views:
    """One image, four times, as the towers want it: float32, normalised, channels last."""

    clip: Float[Array, "tile tile 3"]  # CLIP and BiomedCLIP
    dinov2: Float[Array, "tile tile 3"]
    high: Float[Array, "high high 3"]  # Vary, Co-DETR and SAM
    patches: Float[Array, "P 2+pixels"]  # Pix2Struct and Deplot


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MovaInputs:
    """What the processor makes of one sample: what the towers saw (zeros where one was not run), prompt and question.

    `coarse` are the experts that the model chose in its first pass, `available` those that were run. The first `prefix`
    tokens, the template's, stand before the image in every prompt: they do not depend on routing.
    """

    base: Float[Array, "N D"]
    experts: tuple[Float[Array, "N C"], ...]
    coarse: Bool[Array, "E"]
    available: Bool[Array, "E"]
    tokens: Int[Array, "T"]
    mask: Bool[Array, "T"]
    words: Int[Array, "W"]
    words_mask: Bool[Array, "W"]
    prefix: int = field(default=0, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MovaFeatures:
    """Everything that does not depend on routing."""

    seen: Seen
    embeddings: Float[Array, "T O"]
    place: Int[Array, ""]  # of IMAGE in the prompt
    mask: Bool[Array, "T"]
    past: KVCache | None  # keys and values of the prefix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MovaAnswer:
    """Answer tokens, end token included, padded to A."""

    tokens: Int[Array, "A"]
    mask: Bool[Array, "A"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prompt:
    """A prompt that was read: keys and values of its tokens, which of them are no padding, the last one's state."""

    cache: KVCache
    valid: Bool[Array, "S"]
    last: Float[Array, "O"]


class MovaNet(nnx.Module):
    """Every parameter of the model; the methods take one sample."""

    def __init__(self, config: MovaConfig, rngs: nnx.Rngs):
        self.config = config
        width = config.decoder.width
        self.clip = ClipVit(config.clip_built, rngs)
        self.dinov2 = DinoV2(config.dinov2, config.dinov2_blocks, rngs)
        self.vary = Vary(config.vary, rngs)
        self.codetr = CoDetr(config.codetr, rngs)
        self.pix2struct = Pix2Struct(config.pix2struct, rngs)
        self.deplot = Pix2Struct(config.deplot, rngs)
        self.biomedclip = BiomedClip(config.biomedclip, rngs)
        self.sam = Sam(config.sam, rngs)
        self.adapter = Adapter(config.adapter, rngs)
        self.bert = Bert(config.bert, rngs)
        self.embed_tokens = normal(rngs, (config.vocab_size, width), config.dtype)
        self.decoder = Decoder(config.decoder, rngs)
        self.lm_head = linear(width, config.vocab_size, rngs, config.dtype, bias=False)

    def see_base(self, views: Views) -> Float[Array, "N D"]:
        """CLIP's tokens on the map of the adapter."""
        return align(self.clip(views.clip), self.config.adapter.grid)

    def see_native(self, expert: str, views: Views) -> Float[Array, "n C"]:
        """An expert's tokens on its own map."""
        config = self.config
        if expert == "dinov2":
            return self.dinov2(bilinear(views.dinov2, config.dinov2.image_size))
        if expert == "vary":
            return self.vary(views.high)
        if expert == "codetr":
            return self.codetr(nearest(views.high, config.codetr.image_size))
        if expert == "pix2struct":
            return self.pix2struct(views.patches)
        if expert == "deplot":
            return self.deplot(views.patches)
        if expert == "biomedclip":
            return self.biomedclip(bilinear(views.clip, config.biomedclip.image_size))
        return self.sam(views.high)

    def see_expert(self, expert: str, views: Views) -> Float[Array, "N C"]:
        """An expert's tokens on the map of the adapter."""
        return align(self.see_native(expert, views), self.config.adapter.grid)

    def read_question(self, words: Int[Array, "W"], mask: Bool[Array, "W"]) -> Float[Array, "M"]:
        """The question as the gates see it: BERT's state of its first token."""
        return self.bert(words, mask)[0]

    def embed(self, tokens: Int[Array, "*T"]) -> Float[Array, "*T O"]:
        """Word embeddings; IMAGE gets one that is never read."""
        return self.embed_tokens[...][jnp.maximum(tokens, 0)]

    def encode(self, inputs: MovaInputs) -> MovaFeatures:
        """Everything that does not depend on routing."""
        seen = self.adapter.see(
            inputs.base, inputs.experts, self.read_question(inputs.words, inputs.words_mask), inputs.coarse,
            inputs.available, self.config.keep,
        )  # fmt: skip
        embeddings = self.embed(inputs.tokens)
        past = self.read_prefix(embeddings[: inputs.prefix], inputs.mask[: inputs.prefix]) if inputs.prefix else None
        return MovaFeatures(seen, embeddings, jnp.argmax(inputs.tokens == IMAGE), inputs.mask, past)

    def read_prefix(self, embeddings: Float[Array, "P O"], mask: Bool[Array, "P"]) -> KVCache:
        """Keys and values of the tokens before the image, which see nothing of it."""
        return self.decoder(embeddings, causal_mask(mask), positions(mask), causal=True)[1]

    def image_tokens(self, seen: Seen, routing: Routing | None) -> Float[Array, "I O"]:
        """What the language model sees of the image."""
        states, _ = self.adapter.mix(seen, routing)
        return self.adapter.tokens(seen.base, states[-1])

    def routing_tokens(self, base: Float[Array, "N D"]) -> Float[Array, "R O"]:
        """The few image tokens of the coarse pass, in which no expert is seen."""
        tokens = self.adapter.tokens(base, self.adapter.without_experts(base))
        return pool(tokens, round(self.config.routing_tokens**0.5))

    def read(
        self,
        embeddings: Float[Array, "T O"],
        mask: Bool[Array, "T"],
        place: Int[Array, ""],
        image: Float[Array, "I O"],
        past: KVCache | None = None,
    ) -> Prompt:
        """Run the language model over the prompt with the image in its place, behind the prefix if that is known."""
        x, valid = merge(embeddings, mask, place, image)
        if self.config.max_length is not None:
            x, valid = x[: self.config.max_length], valid[: self.config.max_length]
        known = 0 if past is None else past.keys.shape[1]
        rows = x[known:], causal_mask(valid)[known:], positions(valid)[known:]
        state, cache = self.decoder.prefill(*rows, last_valid(valid) - known, past)
        if past is not None:
            cache = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), past, cache)
        return Prompt(cache, valid, state)

    def logits(self, states: Float[Array, "*T O"]) -> Float[Array, "*T V"]:
        """Scores of the next token, in float32."""
        return self.lm_head(states).astype(jnp.float32)

    def answer_logits(self, prompt: Prompt, answer: MovaAnswer) -> Float[Array, "A V"]:
        """The logits that each answer token is chosen from, all tokens at once."""
        states, run = prompt.last[None], answer.tokens.shape[0] - 1  # nothing is asked behind the last token
        if run:
            before = jnp.broadcast_to(prompt.valid[None], (run, prompt.valid.shape[0]))
            mask = jnp.concatenate([before, causal_mask(answer.mask[:-1])], axis=1)  # [A - 1, S + A - 1]
            places = prompt.valid.sum() + jnp.arange(run)
            after, _ = self.decoder(self.embed(answer.tokens[:-1]), mask, places, prompt.cache)
            states = jnp.concatenate([states, after])
        return self.logits(states)  # the state before each token

    def answer_logprobs(self, prompt: Prompt, answer: MovaAnswer) -> Float[Array, "A"]:
        """Log-probability of each answer token, zero where padded."""
        scores = jax.nn.log_softmax(self.answer_logits(prompt, answer))
        picked = jnp.take_along_axis(scores, answer.tokens[:, None], axis=1)[:, 0]
        return jnp.where(answer.mask, picked, 0.0)

    def generate(self, prompt: Prompt, length: int) -> Int[Array, "A"]:
        """Greedy tokens, padded behind the end token; nothing is computed behind it."""
        config, size = self.config, prompt.valid.shape[0]

        def unfinished(carry: tuple[Int[Array, ""], Int[Array, "A"], Float[Array, "O"], KVCache]) -> Bool[Array, ""]:
            number, tokens, _, _ = carry
            ended = (number > 0) & (tokens[jnp.maximum(number - 1, 0)] == config.end)
            return (number < length) & ~ended

        def step(
            carry: tuple[Int[Array, ""], Int[Array, "A"], Float[Array, "O"], KVCache],
        ) -> tuple[Int[Array, ""], Int[Array, "A"], Float[Array, "O"], KVCache]:
            number, tokens, state, cache = carry
            token = self.logits(state).argmax().astype(tokens.dtype)
            mask = jnp.concatenate([prompt.valid, jnp.arange(length) <= number])
            x, cache = self.decoder.decode(
                self.embed(token)[None], cache, size + number, mask[None], prompt.valid.sum() + number
            )
            return number + 1, tokens.at[number].set(token), x[0], cache

        start = (
            jnp.asarray(0), jnp.full(length, config.pad, jnp.int32), prompt.last, prompt.cache.padded(size + length)
        )  # fmt: skip
        return jax.lax.while_loop(unfinished, step, start)[1]


def merge(
    embeddings: Float[Array, "T O"], mask: Bool[Array, "T"], place: Int[Array, ""], image: Float[Array, "I O"]
) -> tuple[Float[Array, "S O"], Bool[Array, "S"]]:
    """The prompt with the image tokens where IMAGE stood, and which of its tokens are no padding."""
    length, width = embeddings.shape[0], image.shape[0]
    at = jnp.arange(length - 1 + width)
    inside = (at >= place) & (at < place + width)
    text = jnp.clip(jnp.where(at < place, at, at - width + 1), 0, length - 1)
    seen = image[jnp.clip(at - place, 0, width - 1)]
    return jnp.where(inside[:, None], seen, embeddings[text]), inside | mask[text]


def positions(valid: Bool[Array, "S"]) -> Int[Array, "S"]:
    """Place of each token among those that are no padding."""
    return jnp.maximum(jnp.cumsum(valid) - 1, 0)


def last_valid(valid: Bool[Array, "S"]) -> Int[Array, ""]:
    """Index of the last token that is no padding."""
    return valid.shape[0] - 1 - jnp.argmax(valid[::-1])


def create(config: MovaConfig, rngs: nnx.Rngs) -> MovaNet:
    """The model with randomly initialized parameters."""
    return MovaNet(config, rngs)


@cache
def abstract(config: MovaConfig) -> tuple[Any, Any]:
    """The graph definition of the model, and its parameters as `jax.ShapeDtypeStruct`s."""
    return nnx.split(nnx.eval_shape(lambda: MovaNet(config, traced_keys(0))))


def count_parameters(config: MovaConfig) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract(config)[1]))


def fake_inputs(config: MovaConfig, tokens: int = 32, words: int = 16) -> MovaInputs:
    """Inputs of one sample: experts that see nothing, all of them chosen, the image in the middle of the prompt."""
    size, experts = config.adapter.tokens, len(config.expert_widths)
    dtype = jnp.dtype(config.dtype)
    return MovaInputs(
        base=jnp.zeros((size, config.adapter.width), dtype),
        experts=tuple(jnp.zeros((size, channels), dtype) for channels in config.expert_widths),
        coarse=jnp.ones(experts, bool),
        available=jnp.ones(experts, bool),
        tokens=jnp.ones(tokens, jnp.int32).at[tokens // 2].set(IMAGE),
        mask=jnp.ones(tokens, bool),
        words=jnp.ones(words, jnp.int32),
        words_mask=jnp.ones(words, bool),
        prefix=tokens // 2,
    )
