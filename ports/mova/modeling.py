"""The MoVA model: towers, adapter, language model.

    tile ─► CLIP ─────────────┐
    views ─► seven experts ───┤   adapter under routing weights r [L, E]
    question ─► BERT ─► gates ┘        │
                                       ▼
    prompt with one IMAGE ─► [before | image tokens | after] ─► Llama ─► answer

Axis letters: L adapter blocks, E experts, N tokens of the map, C channels of an expert, D width of the adapter, M text
width, I image tokens, R image tokens of the coarse pass, T prompt tokens with IMAGE among them, S = T - 1 + I tokens of
the merged prompt, W tokens of the question, A answer tokens, O the language model's width, V vocabulary, P tokens of
the prefix. One sample.
"""

from __future__ import annotations

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
from ports.mova.adapter.adapter import Adapter, AdapterFeatures
from ports.mova.batch import IMAGE, ImageViews, MovaAnswer, MovaFeatures, MovaInputs, PrefilledPrompt
from ports.mova.config import MovaConfig
from ports.mova.layers import align, bilinear, nearest, pool
from ports.mova.towers.biomedclip import BiomedClip
from ports.mova.towers.codetr import CoDetr
from ports.mova.towers.dinov2 import DinoV2
from ports.mova.towers.pix2struct import Pix2Struct
from ports.mova.towers.sam import Sam, Vary
from r2t2_jax.routing import Routing

DecodeState = tuple[Int[Array, ""], Int[Array, "A"], Float[Array, "O"], KVCache]


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

    def encode_base(self, views: ImageViews) -> Float[Array, "N D"]:
        """CLIP's tokens on the map of the adapter."""
        with jax.named_scope("towers"):
            return align(self.clip(views.clip), self.config.adapter.grid)

    def run_tower(self, expert: str, views: ImageViews) -> Float[Array, "n C"]:
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

    def encode_expert(self, expert: str, views: ImageViews) -> Float[Array, "N C"]:
        """An expert's tokens on the map of the adapter."""
        with jax.named_scope("towers"), jax.named_scope(expert):
            return align(self.run_tower(expert, views), self.config.adapter.grid)

    @jax.named_scope("question")
    def encode_question(self, words: Int[Array, "W"], mask: Bool[Array, "W"]) -> Float[Array, "M"]:
        """BERT's hidden state of the first token: the gates' input."""
        return self.bert(words, mask)[0]

    def embed(self, tokens: Int[Array, "*T"]) -> Float[Array, "*T O"]:
        """Token embeddings; the embedding of IMAGE is never used."""
        return self.embed_tokens[...][jnp.maximum(tokens, 0)]

    def encode(self, inputs: MovaInputs) -> MovaFeatures:
        """Everything that does not depend on routing."""
        text = self.encode_question(inputs.words, inputs.words_mask)
        adapter = self.adapter.encode(
            inputs.base, inputs.experts, text, inputs.coarse, inputs.available, self.config.keep
        )
        embeddings = self.embed(inputs.tokens)
        past = self.prefill_prefix(embeddings[: inputs.prefix], inputs.mask[: inputs.prefix]) if inputs.prefix else None
        return MovaFeatures(adapter, embeddings, jnp.argmax(inputs.tokens == IMAGE), inputs.mask, past)

    @jax.named_scope("prompt")
    def prefill_prefix(self, embeddings: Float[Array, "P O"], mask: Bool[Array, "P"]) -> KVCache:
        """Keys and values of the tokens before the image, which do not attend to it."""
        return self.decoder(embeddings, causal_mask(mask), positions(mask), causal=True)[1]

    def image_tokens(self, features: AdapterFeatures, routing: Routing | None) -> Float[Array, "I O"]:
        """The image tokens of the language model."""
        states, _ = self.adapter.run_blocks(features, routing)
        return self.adapter.image_tokens(features.base, states[-1])

    def coarse_image_tokens(self, base: Float[Array, "N D"]) -> Float[Array, "R O"]:
        """The image tokens of the coarse pass, which uses no expert."""
        tokens = self.adapter.image_tokens(base, self.adapter.without_experts(base))
        return pool(tokens, round(self.config.routing_tokens**0.5))

    @jax.named_scope("prompt")
    def prefill(
        self,
        embeddings: Float[Array, "T O"],
        mask: Bool[Array, "T"],
        image_position: Int[Array, ""],
        image: Float[Array, "I O"],
        past: KVCache | None = None,
    ) -> PrefilledPrompt:
        """Run the language model over the prompt with the image tokens in place of IMAGE.

        Args:
            embeddings: of the prompt.
            mask: False where the prompt is padded.
            image_position: index of IMAGE in the prompt.
            image: image tokens.
            past: keys and values of the prefix, if they are already computed.

        Returns:
            The state after the last prompt token, and the cache of the whole prompt.
        """
        x, valid = merge_image(embeddings, mask, image_position, image)
        if self.config.max_length is not None:
            x, valid = x[: self.config.max_length], valid[: self.config.max_length]
        known = 0 if past is None else past.keys.shape[1]
        rows = x[known:], causal_mask(valid)[known:], positions(valid)[known:]
        state, cache = self.decoder.prefill(*rows, last_valid(valid) - known, past)
        if past is not None:
            cache = past.followed_by(cache)
        return PrefilledPrompt(cache, valid, state)

    @jax.named_scope("lm_head")
    def logits(self, states: Float[Array, "*T O"]) -> Float[Array, "*T V"]:
        """Next-token logits, in float32."""
        return self.lm_head(states).astype(jnp.float32)

    def answer_logits(self, prompt: PrefilledPrompt, answer: MovaAnswer) -> Float[Array, "A V"]:
        """The logits that predict each answer token, computed for all tokens at once."""
        states, run = prompt.last[None], answer.tokens.shape[0] - 1  # the last token predicts nothing
        if run:
            before = jnp.broadcast_to(prompt.valid[None], (run, prompt.valid.shape[0]))
            mask = jnp.concatenate([before, causal_mask(answer.mask[:-1])], axis=1)  # [A - 1, S + A - 1]
            token_positions = prompt.valid.sum() + jnp.arange(run)
            with jax.named_scope("answer_tokens"):
                after, _ = self.decoder(self.embed(answer.tokens[:-1]), mask, token_positions, prompt.cache)
            states = jnp.concatenate([states, after])
        return self.logits(states)

    def answer_logprobs(self, prompt: PrefilledPrompt, answer: MovaAnswer) -> Float[Array, "A"]:
        """Log-probability of each answer token, zero where padded."""
        logprobs = jax.nn.log_softmax(self.answer_logits(prompt, answer))
        picked = jnp.take_along_axis(logprobs, answer.tokens[:, None], axis=1)[:, 0]
        return jnp.where(answer.mask, picked, 0.0)

    def generate(self, prompt: PrefilledPrompt, length: int) -> Int[Array, "A"]:
        """Greedy tokens, padded after the end token; decoding stops there."""
        config, size = self.config, prompt.valid.shape[0]

        def unfinished(state: DecodeState) -> Bool[Array, ""]:
            number, tokens, _, _ = state
            ended = (number > 0) & (tokens[jnp.maximum(number - 1, 0)] == config.end)
            return (number < length) & ~ended

        def step(state: DecodeState) -> DecodeState:
            number, tokens, hidden, cache = state
            token = self.logits(hidden).argmax().astype(tokens.dtype)
            mask = jnp.concatenate([prompt.valid, jnp.arange(length) <= number])
            x, cache = self.decoder.decode(
                self.embed(token)[None], cache, size + number, mask[None], prompt.valid.sum() + number
            )
            return number + 1, tokens.at[number].set(token), x[0], cache

        start = (
            jnp.asarray(0), jnp.full(length, config.pad, jnp.int32), prompt.last, prompt.cache.padded(size + length)
        )  # fmt: skip
        return jax.lax.while_loop(unfinished, step, start)[1]


def merge_image(
    embeddings: Float[Array, "T O"], mask: Bool[Array, "T"], image_position: Int[Array, ""], image: Float[Array, "I O"]
) -> tuple[Float[Array, "S O"], Bool[Array, "S"]]:
    """The prompt with the image tokens in place of IMAGE, and its mask."""
    length, width = embeddings.shape[0], image.shape[0]
    at = jnp.arange(length - 1 + width)
    inside = (at >= image_position) & (at < image_position + width)
    text = jnp.clip(jnp.where(at < image_position, at, at - width + 1), 0, length - 1)
    image_rows = image[jnp.clip(at - image_position, 0, width - 1)]
    return jnp.where(inside[:, None], image_rows, embeddings[text]), inside | mask[text]


def positions(valid: Bool[Array, "S"]) -> Int[Array, "S"]:
    """Position of each token, padding not counted."""
    return jnp.maximum(jnp.cumsum(valid) - 1, 0)


def last_valid(valid: Bool[Array, "S"]) -> Int[Array, ""]:
    """Index of the last token that is not padding."""
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
    """Inputs of one sample: zero features of all experts, all of them chosen, the image in the middle of the prompt."""
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
