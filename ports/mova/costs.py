"""What MoVA costs, and the ladder from the literal gradient to the cheapest one.

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
from ports.mova import flops
from ports.mova.batch import IMAGE, ImageViews, MovaAnswer, MovaFeatures, MovaInputs, PrefilledPrompt
from ports.mova.config import EXPERTS, MovaConfig
from ports.mova.model import MovaModel
from ports.mova.modeling import MovaNet, abstract, fake_inputs, last_valid, merge_image, positions
from r2t2_jax.contract import Costs, CostVariant
from r2t2_jax.routing import Routing

ROUTING_TOKENS = 352  # of the first pass's prompt: the pool of models takes some 290, the template some 50
HEARD = 8  # tokens of its answer, as in "A, C, E"


class Case(NamedTuple):
    """One sample before any tower has seen it. `heard` is the first pass's answer; given, it costs as much as found."""

    views: ImageViews
    routing: Int[Array, "R"]
    heard: MovaAnswer
    tokens: Int[Array, "T"]
    words: Int[Array, "W"]


def costs(config: MovaConfig, tokens: int, answer: int) -> Costs:
    """The costs of a model whose prompt and answer have so many tokens."""
    raw = jax.eval_shape(lambda: fake_case(config, tokens))
    words, prefix = raw.words.shape[0], _prefix(tokens)
    written, first_pass = _written(config, tokens), flops.first_pass(config, ROUTING_TOKENS, HEARD)
    forward = flops.forward(config, tokens, answer, prefix)
    gates = config.adapter.blocks * flops.gate(config.adapter)
    return Costs(
        raw=raw,
        prepare=_prepare(config),
        prepare_flops=flops.towers(config) + first_pass,
        encode_flops=flops.encode(config, words, prefix),
        route_flops=flops.route(config),
        answer_flops=forward + gates,
        rerouted_loss_flops=forward,
        naive_flops=flops.towers(config) + flops.encode(written, words) + flops.whole(written, tokens, answer),
        ladder=ladder(config, tokens, words, answer),
        first_pass_flops=first_pass,
    )


def fake_case(config: MovaConfig, tokens: int) -> Case:
    """A case of the right shapes: gray views, one token repeated, IMAGE where `fake_inputs` has it."""
    inputs = fake_inputs(config, tokens)
    tile, high = config.clip.image_size, config.high_size
    pixels = 3 * config.pix2struct.patch_size**2
    heard = MovaAnswer(jnp.ones(HEARD, jnp.int32), jnp.ones(HEARD, bool))
    views = ImageViews(
        jnp.zeros((tile, tile, 3)),
        jnp.zeros((tile, tile, 3)),
        jnp.zeros((high, high, 3)),
        jnp.ones((config.max_patches, 2 + pixels)),
    )
    routing = jnp.ones(ROUTING_TOKENS, jnp.int32).at[ROUTING_TOKENS // 2].set(IMAGE)
    return Case(views, routing, heard, inputs.tokens, inputs.words)


def ladder(config: MovaConfig, tokens: int, words: int, answer: int) -> tuple[CostVariant, ...]:
    """From the literal gradient to the cheapest one; `remat` and `keep` are rungs, whatever `config` says."""
    written = _written(config, tokens)
    blocks = _variant(config, remat="none", keep="outputs")
    lean = _variant(config, remat="attention", keep="outputs")
    keys = _variant(config, remat="attention", keep="keys")
    sizes, known = (tokens, answer), (tokens, answer, _prefix(tokens))
    whole = flops.whole_gradient(written, *sizes)
    anew = flops.towers(written) + flops.encode(written, words)

    def rung(name: str, about: str, config: MovaConfig, step: int, prefix: int = 0, **given: Any) -> CostVariant:
        functions = {
            "once": _once(config, prefix),
            "loss": _loss(config),
            "once_flops": flops.towers(config) + flops.encode(config, words, prefix),
        } | given
        return CostVariant(name, about, abstract(config)[1], step_flops=step, **functions)

    literal = {"once": _as_it_is, "loss": _literal(written), "once_flops": 0}
    cheapest = rung(
        "expert keys once",
        "the later blocks' keys and values of the experts are computed once and kept instead of the experts' features",
        keys, flops.gradient(keys, *known), known[2],
    )  # fmt: skip
    return (
        rung(
            "literal",
            "towers and everything behind them anew in every step, forwards and backwards, every parameter's gradient",
            written, flops.training(written, tokens, words, answer), **literal, every_gradient=True,
        ),
        rung("routing gradients", "gradients go to the routing weights alone", written, anew + whole, **literal),
        rung(
            "encode once",
            "towers, BERT and what the first block reads from the experts are computed once a neighbor",
            written, whole, loss=_whole_loss(written, every_logit=True),
        ),
        rung(
            "answer logits",
            "logits at the answer's places alone",
            written, flops.whole_gradient(written, *sizes, logits=False), loss=_whole_loss(written, every_logit=False),
        ),
        rung(
            "answer queries",
            "in the last layer the prompt's rows leave keys and values, and the last one alone asks",
            written, flops.gradient(written, *sizes),
        ),
        rung(
            "template once",
            "keys and values of the template's tokens before the image are computed once",
            written, flops.gradient(written, *known), known[2],
        ),
        rung(
            "causal blocks",
            f"attention in blocks of {config.decoder.attention_block} rows, without keys that none of them may see",
            blocks, flops.gradient(blocks, *known), known[2],
        ),
        rung(
            "lean backward",
            "attention is computed again in the backward pass instead of kept: more work, less memory",
            lean, flops.gradient(lean, *known), known[2],
        ),
        cheapest,
        cheapest.for_all(),
    )  # fmt: skip


def _written(config: MovaConfig, tokens: int) -> MovaConfig:
    """The model as upstream wrote it: attention over the full square, nothing computed again."""
    return _variant(config, remat="none", keep="outputs", attention_block=tokens + config.adapter.image_tokens)


def _variant(config: MovaConfig, remat: Any, keep: Any, attention_block: int | None = None) -> MovaConfig:
    changed = config.with_remat(remat)
    block = attention_block or config.decoder.attention_block
    return dataclasses.replace(changed, decoder=dataclasses.replace(changed.decoder, attention_block=block), keep=keep)


def _prefix(tokens: int) -> int:
    """Tokens before IMAGE in `fake_inputs`."""
    return tokens // 2


def _as_it_is(params: Any, case: Case) -> Case:
    return case


def _seen(net: MovaNet, case: Case, base: Array, prefix: int) -> MovaInputs:
    """What the towers see, all of them, as `encode` takes it."""
    everything = jnp.ones(len(EXPERTS), bool)
    return MovaInputs(
        base, tuple(net.encode_expert(expert, case.views) for expert in EXPERTS), everything, everything, case.tokens,
        jnp.ones(case.tokens.shape, bool), case.words, jnp.ones(case.words.shape, bool), prefix,
    )  # fmt: skip


def _prepare(config: MovaConfig) -> Any:
    """First pass and towers, as `processing.MovaProcessor` runs them."""

    def prepare(params: Any, case: Case) -> MovaInputs:
        net = nnx.merge(abstract(config)[0], params)
        base = net.encode_base(case.views)
        embeddings, mask = net.embed(case.routing), jnp.ones(case.routing.shape, bool)
        prompt = net.prefill(embeddings, mask, jnp.argmax(case.routing == IMAGE), net.coarse_image_tokens(base))
        coarse = net.answer_logits(prompt, case.heard).argmax(axis=1)[: len(EXPERTS)] > 0
        return dataclasses.replace(_seen(net, case, base, _prefix(len(case.tokens))), coarse=coarse)

    return prepare


@cache
def _once(config: MovaConfig, prefix: int) -> Any:
    """Towers and `encode`; references need no first pass, since r may lie on every expert."""

    def once(params: Any, case: Case) -> MovaFeatures:
        net = nnx.merge(abstract(config)[0], params)
        return net.encode(_seen(net, case, net.encode_base(case.views), prefix))

    return once


@cache
def _loss(config: MovaConfig) -> Any:
    model = MovaModel(config, abstract(config)[0])

    def loss(r: Float[Array, "L E"], params: Any, features: MovaFeatures, answer: MovaAnswer) -> Float[Array, ""]:
        return model.answer_loss(params, features, Routing(r), answer)

    return loss


def _literal(config: MovaConfig) -> Any:
    encode, whole = _once(config, 0), _whole_loss(config, every_logit=True)

    def loss(r: Float[Array, "L E"], params: Any, case: Case, answer: MovaAnswer) -> Float[Array, ""]:
        return whole(r, params, encode(params, case), answer)

    return loss


@cache
def _whole_loss(config: MovaConfig, every_logit: bool) -> Any:
    """The loss with every row finished in the last layer, where only one is read; every row's logits if asked for."""

    def loss(r: Float[Array, "L E"], params: Any, features: MovaFeatures, answer: MovaAnswer) -> Float[Array, ""]:
        net: MovaNet = nnx.merge(abstract(config)[0], params)
        image = net.image_tokens(features.adapter, Routing(r))
        x, valid = merge_image(features.embeddings, features.mask, features.image_position, image)  # [S, O]
        states, cache = net.decoder(x, causal_mask(valid), positions(valid))
        logprobs = net.answer_logprobs(PrefilledPrompt(cache, valid, states[last_valid(valid)]), answer)  # [A]
        if every_logit:
            unread = jax.nn.log_softmax(net.logits(states))[:, 0]
            logprobs = jnp.concatenate([jnp.where(jnp.zeros(len(unread), bool), unread, 0.0), logprobs])
        return -logprobs.sum() / jnp.maximum(answer.mask.sum(), 1)

    return loss
