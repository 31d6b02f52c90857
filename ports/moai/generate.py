"""Tokens after the prompt: run over its keys and values, without mixers and adapters; greedy and beam search.

Routing acts only through the keys and values of the prompt.

Axis letters: A tokens, S slots of the cache, D width, L mixers, P plain layers before each mixer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.decoder import KVCache
from ports.common.layers.stack import layer_at
from ports.moai.batch import LayerCaches, MoAIAnswer, MoAIFeatures, SequenceLayout
from ports.moai.layer import InternLM2Layer
from ports.moai.modeling import MoAINet

LayerStep = Callable[[InternLM2Layer, Array, KVCache], tuple[Array, Any]]


@jax.named_scope("answer_tokens")
def run_tokens(
    net: MoAINet, tokens: Int[Array, "A"], first: Int[Array, ""], cache: LayerCaches, valid: Bool[Array, "S"]
) -> Float[Array, "A D"]:
    """Run all tokens of a known text at once; they attend to the valid slots of the cache, and causally to each other.

    Args:
        net: the model.
        tokens: at positions `first`, `first` + 1, ...
        first: the position after the prompt.
        cache: of the prompt.
        valid: slots that are not padding.

    Returns:
        The residual stream after the last layer.
    """
    count = tokens.shape[0]
    positions = first + jnp.arange(count)
    visible = jnp.concatenate(
        [jnp.broadcast_to(valid, (count, valid.shape[0])), jnp.tril(jnp.ones((count, count), bool))], axis=1
    )

    def run(layer: InternLM2Layer, x: Array, past: KVCache) -> tuple[Array, None]:
        query, new = layer.project(layer.input_layernorm(x), positions, images=0)
        _, cache = new.after(past)
        return layer.attend_and_mlp(x, query, cache, visible, images=0), None

    return _run_layers(net, run, net.embed(tokens), cache)[0]


def answer_logprobs(
    net: MoAINet, x: Float[Array, "1 D"], cache: LayerCaches, features: MoAIFeatures, answer: MoAIAnswer
) -> Float[Array, "A"]:
    """Log-probability of each answer token, zero where padded; `x` is the residual stream of the prompt's last row."""
    logprobs = vocabulary_logprobs(net, x, cache, features, answer)
    picked = jnp.take_along_axis(logprobs, answer.tokens[:, None], axis=1)[:, 0]
    return jnp.where(answer.mask, picked, 0.0)


def vocabulary_logprobs(
    net: MoAINet, x: Float[Array, "1 D"], cache: LayerCaches, features: MoAIFeatures, answer: MoAIAnswer
) -> Float[Array, "A V"]:
    """Log-probability of every token of the vocabulary at each position of the answer."""
    if answer.tokens.shape[0] > 1:
        after = run_tokens(net, answer.tokens[:-1], features.layout.length, cache, features.layout.valid)
        x = jnp.concatenate([x, after])  # [A, D]
    return jax.nn.log_softmax(net.logits(x))


@jax.named_scope("answer_tokens")
def run_token(
    net: MoAINet,
    token: Int[Array, ""],
    position: Int[Array, ""],
    cache: LayerCaches,
    slot: Int[Array, ""],
    visible: Bool[Array, "S"],
) -> tuple[Float[Array, "1 D"], LayerCaches]:
    """The residual stream after the last layer, and the cache with the token's keys and values in `slot`.

    The cache is padded; `visible`, the slots that the token attends to, includes `slot`.
    """

    def run(layer: InternLM2Layer, x: Array, past: KVCache) -> tuple[Array, KVCache]:
        query, new = layer.project(layer.input_layernorm(x), position[None], images=0)
        kv = jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, slot, 0), past, new)
        return layer.attend_and_mlp(x, query, kv, visible[None], images=0), kv

    x, (plain, mixed, tail) = _run_layers(net, run, net.embed(token[None]), cache)
    if tail is not None:
        plain = jax.tree.map(lambda *parts: jnp.concatenate(parts), plain, tail)
    return x, LayerCaches(plain, mixed)


def _run_layers(net: MoAINet, run: LayerStep, x: Array, cache: LayerCaches) -> tuple[Array, tuple[Any, Any, Any]]:
    """`run` on every layer with its part of the cache, in order; its results for plain, mixed and tail layers."""
    config = net.config
    before = config.mixers * config.plain_layers

    def plain(x: Array, item: tuple[Array, KVCache]) -> tuple[Array, Any]:
        return run(layer_at(net.plain, item[0]), x, item[1])

    def group(x: Array, item: tuple[Array, KVCache, KVCache]) -> tuple[Array, tuple[Any, Any]]:
        number, past, mixed_past = item
        numbers = number * config.plain_layers + jnp.arange(config.plain_layers)
        x, results = jax.lax.scan(net.remat(plain), x, (numbers, past)) if len(numbers) else (x, past)
        x, mixed = net.remat(lambda x, past: run(layer_at(net.mixed, number), x, past))(x, mixed_past)
        return x, (results, mixed)

    grouped = jax.tree.map(
        lambda leaf: leaf[:before].reshape(config.mixers, config.plain_layers, *leaf.shape[1:]), cache.plain
    )
    x, (results, mixed) = jax.lax.scan(group, x, (jnp.arange(config.mixers), grouped, cache.mixed))
    results = jax.tree.map(lambda leaf: leaf.reshape(before, *leaf.shape[2:]), results)
    if not config.tail_layers:
        return x, (results, mixed, None)
    rest = jax.tree.map(lambda leaf: leaf[before:], cache.plain)
    x, tail = jax.lax.scan(net.remat(plain), x, (before + jnp.arange(config.tail_layers), rest))
    return x, (results, mixed, tail)


def _step(
    net: MoAINet, token: Int[Array, ""], number: Int[Array, ""], cache: LayerCaches, layout: SequenceLayout, free: int
) -> tuple[Float[Array, "V"], LayerCaches]:
    """Logits after the answer's token `number`, counted from 0, and the cache with that token."""
    prompt = layout.valid.shape[0]
    visible = jnp.concatenate([layout.valid, jnp.arange(free) <= number])
    x, cache = run_token(net, token, layout.length + number, cache, prompt + number, visible)
    return net.logits(x)[0], cache


def _ends(net: MoAINet, tokens: Int[Array, "*B"]) -> Bool[Array, "*B"]:
    stops = jnp.asarray(net.config.stop_ids)
    return (tokens[..., None] == stops.reshape((1,) * tokens.ndim + (-1,))).any(axis=-1)


def greedy_search(
    net: MoAINet, logits: Float[Array, "V"], cache: LayerCaches, layout: SequenceLayout, max_new_tokens: int
) -> Int[Array, "A"]:
    """The most likely token at each step.

    Args:
        net: the model.
        logits: after the prompt.
        cache: of the prompt.
        layout: of the prompt.
        max_new_tokens: A; decoding stops earlier if the answer ends.

    Returns:
        Tokens up to the one that ends the answer, which is included, then padding.
    """
    tokens = jnp.full(max_new_tokens, net.config.pad_id, jnp.int32)

    def unfinished(state: tuple[Any, ...]) -> Bool[Array, ""]:
        number, tokens, _, _ = state
        ended = (number > 0) & _ends(net, tokens[jnp.maximum(number - 1, 0)])
        return (number < max_new_tokens) & ~ended

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        number, tokens, logits, cache = state
        token = logits.argmax().astype(tokens.dtype)
        logits, cache = _step(net, token, number, cache, layout, max_new_tokens)
        return number + 1, tokens.at[number].set(token), logits, cache

    start = (jnp.asarray(0), tokens, logits, cache.padded(max_new_tokens))
    return jax.lax.while_loop(unfinished, step, start)[1]


class _BeamState(NamedTuple):
    number: Int[Array, ""]  # tokens generated so far
    tokens: Int[Array, "B A"]
    totals: Float[Array, "B"]  # log-probability; minus infinity for an unused beam
    logits: Float[Array, "B V"]
    cache: LayerCaches  # every leaf [B, layers, S, G, d]
    finished: Int[Array, "B A"]
    means: Float[Array, "B"]  # log-probability per token of the finished answers; minus infinity for an empty place
    done: Bool[Array, ""]


def beam_search(
    net: MoAINet,
    logits: Float[Array, "V"],
    cache: LayerCaches,
    layout: SequenceLayout,
    max_new_tokens: int,
    num_beams: int,
) -> Int[Array, "A"]:
    """The answer with the highest log-probability per token among those of a beam search.

    The rule is that of Hugging Face's generate with `length_penalty=1`, `early_stopping=False`: running beams are
    ranked by their total log-probability. A beam that ends is moved to the finished answers, with its total divided by
    its number of tokens, the ending one counted; beams still running at the limit are scored in the same way. The
    search stops earlier once `num_beams` answers are finished and the best running total divided by its length so far
    is no better than the worst of them.

    Args:
        net, logits, cache, layout, max_new_tokens: as for `greedy_search`.
        num_beams: B.

    Returns:
        Tokens up to the one that ends the answer, which is included, then padding.
    """
    vocabulary = logits.shape[0]
    empty = jnp.full((num_beams, max_new_tokens), net.config.pad_id, jnp.int32)
    first = jnp.arange(num_beams) == 0  # all beams start equal, so only the first is used
    start = _BeamState(
        number=jnp.asarray(0),
        tokens=empty,
        totals=jnp.where(first, 0.0, -jnp.inf),
        logits=jnp.broadcast_to(logits, (num_beams, vocabulary)),
        cache=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_beams, *leaf.shape)), cache.padded(max_new_tokens)),
        finished=empty,
        means=jnp.full(num_beams, -jnp.inf),
        done=jnp.asarray(False),
    )

    def step(state: _BeamState) -> _BeamState:
        state = _extend(net, state)

        def run(token: Array, cache: LayerCaches) -> tuple[Array, LayerCaches]:
            return _step(net, token, state.number, cache, layout, max_new_tokens)

        logits, cache = jax.vmap(run)(state.tokens[:, state.number], state.cache)
        return state._replace(number=state.number + 1, logits=logits, cache=cache)

    final = jax.lax.while_loop(lambda state: (state.number < max_new_tokens) & ~state.done, step, start)
    running = jnp.where(final.done, -jnp.inf, final.totals / final.number)
    answers = jnp.concatenate([final.finished, final.tokens])
    return answers[jnp.concatenate([final.means, running]).argmax()]


def _extend(net: MoAINet, state: _BeamState) -> _BeamState:
    """Every beam with every next token: the best B that continue, and the best B of all that have ended."""
    count, vocabulary = state.logits.shape
    length = state.number + 1
    totals = (state.totals[:, None] + jax.nn.log_softmax(state.logits)).reshape(-1)  # [B V]
    totals, best = jax.lax.top_k(totals, 2 * count)  # enough to continue with even if half of them end
    parent, token = best // vocabulary, (best % vocabulary).astype(state.tokens.dtype)
    tokens = state.tokens[parent].at[:, state.number].set(token)  # [2 B, A]
    ends = _ends(net, token)

    counted = ends & (jnp.arange(2 * count) < count)  # a beam that ends outside the best B is dropped
    means = jnp.concatenate([state.means, jnp.where(counted, totals / length, -jnp.inf)])
    means, best_finished = jax.lax.top_k(means, count)
    finished = jnp.concatenate([state.finished, tokens])[best_finished]

    running, best_running = jax.lax.top_k(jnp.where(ends, -jnp.inf, totals), count)
    return state._replace(
        tokens=tokens[best_running],
        totals=running,
        cache=jax.tree.map(lambda leaf: leaf[parent[best_running]], state.cache),
        finished=finished,
        means=means,
        done=means.min() >= totals[0] / length,
    )
