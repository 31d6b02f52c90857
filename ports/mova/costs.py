"""The cost functions of MoVA: variants of the gradient, from the literal one to the cheapest.

Axis letters: L adapter blocks, E experts, S slots of the prompt, T its tokens, R tokens of the routing prompt, W words.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ports.common.layers.attention import causal_mask
from ports.mova.batch import IMAGE, ImageViews, MovaAnswer, MovaFeatures, MovaInputs, PrefilledPrompt
from ports.mova.config import EXPERTS, MovaConfig
from ports.mova.model import MovaModel
from ports.mova.modeling import MovaNet, abstract, fake_inputs, last_valid, merge_image, positions
from r2t2_jax.contract import FIRST_PASS, Costs, CostVariant
from r2t2_jax.routing import Routing

ROUTING_TOKENS = 352  # of the first pass's prompt: the descriptions of the experts take some 290, the template some 50
CHOICE_TOKENS = 8  # of the first pass's answer, as in "A, C, E"


class RawSample(NamedTuple):
    """One sample before any tower has run. `choice` is the first pass's answer: scoring costs as much as generating."""

    views: ImageViews
    routing: Int[Array, "R"]
    choice: MovaAnswer
    tokens: Int[Array, "T"]
    words: Int[Array, "W"]


def costs(config: MovaConfig, tokens: int) -> Costs:
    """The cost functions of a model whose prompts have `tokens` tokens."""
    raw = jax.eval_shape(lambda: fake_sample(config, tokens))
    return Costs(raw, _prepare(config), variants(config, tokens))


def fake_sample(config: MovaConfig, tokens: int) -> RawSample:
    """A sample of the right shapes: gray views, one token repeated, IMAGE where `fake_inputs` has it."""
    inputs = fake_inputs(config, tokens)
    tile, high = config.clip.image_size, config.high_size
    pixels = 3 * config.pix2struct.patch_size**2
    choice = MovaAnswer(jnp.ones(CHOICE_TOKENS, jnp.int32), jnp.ones(CHOICE_TOKENS, bool))
    views = ImageViews(
        jnp.zeros((tile, tile, 3)),
        jnp.zeros((tile, tile, 3)),
        jnp.zeros((high, high, 3)),
        jnp.ones((config.max_patches, 2 + pixels)),
    )
    routing = jnp.ones(ROUTING_TOKENS, jnp.int32).at[ROUTING_TOKENS // 2].set(IMAGE)
    return RawSample(views, routing, choice, inputs.tokens, inputs.words)


def variants(config: MovaConfig, tokens: int) -> tuple[CostVariant, ...]:
    """From the literal gradient to the cheapest; `remat` and `keep` are variants here and ignore `config`."""
    naive, prefix = naive_config(config, tokens), _prefix(tokens)
    blocks = _changed(config, remat="none", keep="outputs")
    lean = _changed(config, remat="attention", keep="outputs")
    keys = _changed(config, remat="attention", keep="keys")

    def variant(name: str, about: str, config: MovaConfig, prefix: int = 0, **functions: Any) -> CostVariant:
        defaults = {"once": _once(config, prefix), "loss": _loss(config)}
        return CostVariant(name, about, abstract(config)[1], **defaults | functions)

    literal = {"once": _unchanged, "loss": _literal(naive)}
    cheapest = variant(
        "expert keys once",
        "the later blocks' keys and values of the experts are computed once and replace the experts' stored features",
        keys, prefix,
    )  # fmt: skip
    return (
        variant(
            "literal",
            "every step computes everything, towers included, forwards and backwards, with every parameter's gradient",
            naive, **literal, every_gradient=True,
        ),
        variant("routing gradients", "only the gradient with respect to the routing weights", naive, **literal),
        variant(
            "encode once",
            "towers, BERT and the first block's attention to the experts are computed once per neighbor",
            naive, loss=_whole_loss(naive, every_logit=True),
        ),
        variant(
            "answer logits",
            "logits at the answer's positions only",
            naive, loss=_whole_loss(naive, every_logit=False),
        ),
        variant(
            "answer queries",
            "in the last layer the prompt's rows contribute keys and values only; the last row also has a query",
            naive,
        ),
        variant(
            "template once",
            "keys and values of the template's tokens before the image are computed once",
            naive, prefix,
        ),
        variant(
            "causal blocks",
            f"attention in blocks of {config.decoder.attention_block} rows, without the keys that no row of it sees",
            blocks, prefix,
        ),
        variant(
            "lean backward",
            "the backward pass recomputes attention instead of storing it: more work, less memory",
            lean, prefix,
        ),
        cheapest,
        cheapest.for_all(),
    )  # fmt: skip


def naive_config(config: MovaConfig, tokens: int) -> MovaConfig:
    """The model as upstream runs it: attention over the full square, nothing recomputed."""
    return _changed(config, remat="none", keep="outputs", attention_block=tokens + config.adapter.image_tokens)


def _changed(config: MovaConfig, remat: Any, keep: Any, attention_block: int | None = None) -> MovaConfig:
    changed = config.with_remat(remat)
    block = attention_block or config.decoder.attention_block
    return dataclasses.replace(changed, decoder=dataclasses.replace(changed.decoder, attention_block=block), keep=keep)


def _prefix(tokens: int) -> int:
    """Tokens before IMAGE in `fake_inputs`."""
    return tokens // 2


def _unchanged(params: Any, sample: RawSample) -> RawSample:
    return sample


def _inputs(net: MovaNet, sample: RawSample, base: Array, prefix: int) -> MovaInputs:
    """The outputs of all towers, as `encode` takes them."""
    everything = jnp.ones(len(EXPERTS), bool)
    return MovaInputs(
        base, tuple(net.encode_expert(expert, sample.views) for expert in EXPERTS), everything, everything,
        sample.tokens,
        jnp.ones(sample.tokens.shape, bool), sample.words, jnp.ones(sample.words.shape, bool), prefix,
    )  # fmt: skip


def _prepare(config: MovaConfig) -> Any:
    """First pass and towers, as `processing.MovaProcessor` runs them."""

    def prepare(params: Any, sample: RawSample) -> MovaInputs:
        net = nnx.merge(abstract(config)[0], params)
        base = net.encode_base(sample.views)
        with jax.named_scope(FIRST_PASS):
            embeddings, mask = net.embed(sample.routing), jnp.ones(sample.routing.shape, bool)
            prompt = net.prefill(embeddings, mask, jnp.argmax(sample.routing == IMAGE), net.coarse_image_tokens(base))
            coarse = net.answer_logits(prompt, sample.choice).argmax(axis=1)[: len(EXPERTS)] > 0
        return dataclasses.replace(_inputs(net, sample, base, _prefix(len(sample.tokens))), coarse=coarse)

    return prepare


@cache
def _once(config: MovaConfig, prefix: int) -> Any:
    """Towers and `encode`; references need no first pass, since r may use every expert."""

    def once(params: Any, sample: RawSample) -> MovaFeatures:
        net = nnx.merge(abstract(config)[0], params)
        return net.encode(_inputs(net, sample, net.encode_base(sample.views), prefix))

    return once


@cache
def _loss(config: MovaConfig) -> Any:
    model = MovaModel(config, abstract(config)[0])

    def loss(r: Float[Array, "L E"], params: Any, features: MovaFeatures, answer: MovaAnswer) -> Float[Array, ""]:
        return model.answer_loss(params, features, Routing(r), answer)

    return loss


@cache
def _literal(config: MovaConfig) -> Any:
    encode, whole = _once(config, 0), _whole_loss(config, every_logit=True)

    def loss(r: Float[Array, "L E"], params: Any, sample: RawSample, answer: MovaAnswer) -> Float[Array, ""]:
        return whole(r, params, encode(params, sample), answer)

    return loss


@cache
def _whole_loss(config: MovaConfig, every_logit: bool) -> Any:
    """The loss with every row of the last layer computed, though only one is read.

    Args:
        config: of the model.
        every_logit: also compute the logits of the prompt's rows.
    """

    def loss(r: Float[Array, "L E"], params: Any, features: MovaFeatures, answer: MovaAnswer) -> Float[Array, ""]:
        net: MovaNet = nnx.merge(abstract(config)[0], params)
        image = net.image_tokens(features.adapter, Routing(r))
        x, valid = merge_image(features.embeddings, features.mask, features.image_position, image)  # [S, O]
        with jax.named_scope("prompt"):
            states, cache = net.decoder(x, causal_mask(valid), positions(valid))
        logprobs = net.answer_logprobs(PrefilledPrompt(cache, valid, states[last_valid(valid)]), answer)  # [A]
        if every_logit:
            unread = jax.nn.log_softmax(net.logits(states))[:, 0]
            logprobs = jnp.concatenate([jnp.where(jnp.zeros(len(unread), bool), unread, 0.0), logprobs])
        return -logprobs.sum() / jnp.maximum(answer.mask.sum(), 1)

    return loss
