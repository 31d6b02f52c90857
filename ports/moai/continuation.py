"""Tokens after the prompt: run over its keys and values, neither mixed nor adapted. Routing acts through those alone.

Axis letters: A tokens, S slots of the cache, D width, L mixers, P plain layers before each mixer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ports.common.stack import layer_at
from ports.moai.data import Cache, KeysValues, MoAIAnswer, MoAIFeatures
from ports.moai.layer import Layer
from ports.moai.modeling import MoAINet

Run = Callable[[Layer, Array, KeysValues], tuple[Array, Any]]


def run_tokens(
    net: MoAINet, tokens: Int[Array, "A"], first: Int[Array, ""], cache: Cache, valid: Bool[Array, "S"]
) -> Float[Array, "A D"]:
    """All tokens of a known text at once; they see the valid slots of the cache, and each other causally.

    Args:
        net: the model.
        tokens: at positions `first`, `first` + 1, ...
        first: the position behind the prompt.
        cache: of the prompt.
        valid: slots that are no padding.

    Returns:
        The residual stream behind the last layer.
    """
    count = tokens.shape[0]
    positions = first + jnp.arange(count)
    visible = jnp.concatenate(
        [jnp.broadcast_to(valid, (count, valid.shape[0])), jnp.tril(jnp.ones((count, count), bool))], axis=1
    )

    def run(layer: Layer, x: Array, past: KeysValues) -> tuple[Array, None]:
        query, own = layer.project(layer.norm1(x), positions, images=0)
        seen = jax.tree.map(lambda old, new: jnp.concatenate([old, new]), past, own)
        return layer.finish(x, query, seen, visible, images=0), None

    return _through(net, run, net.embed(tokens), cache)[0]


def tokens_logprobs(
    net: MoAINet, x: Float[Array, "1 D"], cache: Cache, features: MoAIFeatures, answer: MoAIAnswer
) -> Float[Array, "A"]:
    """Log-probability of each answer token, zero where padded; `x` is the prompt's last row."""
    logprobs = words_logprobs(net, x, cache, features, answer)
    picked = jnp.take_along_axis(logprobs, answer.tokens[:, None], axis=1)[:, 0]
    return jnp.where(answer.mask, picked, 0.0)


def words_logprobs(
    net: MoAINet, x: Float[Array, "1 D"], cache: Cache, features: MoAIFeatures, answer: MoAIAnswer
) -> Float[Array, "A V"]:
    """Log-probability of every word at each place of the answer."""
    if answer.tokens.shape[0] > 1:
        after = run_tokens(net, answer.tokens[:-1], features.layout.length, cache, features.layout.valid)
        x = jnp.concatenate([x, after])  # [A, D]
    return jax.nn.log_softmax(net.logits(x))


def run_one(
    net: MoAINet,
    token: Int[Array, ""],
    position: Int[Array, ""],
    cache: Cache,
    slot: Int[Array, ""],
    visible: Bool[Array, "S"],
) -> tuple[Float[Array, "1 D"], Cache]:
    """One token, its keys and values written into `slot` of a padded cache; `visible` holds that slot too."""

    def run(layer: Layer, x: Array, past: KeysValues) -> tuple[Array, KeysValues]:
        query, own = layer.project(layer.norm1(x), position[None], images=0)
        seen = jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, slot, 0), past, own)
        return layer.finish(x, query, seen, visible[None], images=0), seen

    x, (plain, mixed, tail) = _through(net, run, net.embed(token[None]), cache)
    if tail is not None:
        plain = jax.tree.map(lambda *parts: jnp.concatenate(parts), plain, tail)
    return x, Cache(plain, mixed)


def _through(net: MoAINet, run: Run, x: Array, cache: Cache) -> tuple[Array, tuple[Any, Any, Any]]:
    """`run` on every layer with its part of the cache, in order; what it returns of plain, mixed and tail layers."""
    config = net.config
    before = config.mixers * config.plain_layers

    def plain(x: Array, item: tuple[Array, KeysValues]) -> tuple[Array, Any]:
        return run(layer_at(net.plain, item[0]), x, item[1])

    def group(x: Array, item: tuple[Array, KeysValues, KeysValues]) -> tuple[Array, tuple[Any, Any]]:
        number, past, mixed_past = item
        numbers = number * config.plain_layers + jnp.arange(config.plain_layers)
        x, seen = jax.lax.scan(net.remat(plain), x, (numbers, past)) if len(numbers) else (x, past)
        x, mixed = net.remat(lambda x, past: run(layer_at(net.mixed, number), x, past))(x, mixed_past)
        return x, (seen, mixed)

    grouped = jax.tree.map(
        lambda leaf: leaf[:before].reshape(config.mixers, config.plain_layers, *leaf.shape[1:]), cache.plain
    )
    x, (seen, mixed) = jax.lax.scan(group, x, (jnp.arange(config.mixers), grouped, cache.mixed))
    seen = jax.tree.map(lambda leaf: leaf.reshape(before, *leaf.shape[2:]), seen)
    if not config.tail_layers:
        return x, (seen, mixed, None)
    rest = jax.tree.map(lambda leaf: leaf[before:], cache.plain)
    x, tail = jax.lax.scan(net.remat(plain), x, (before + jnp.arange(config.tail_layers), rest))
    return x, (seen, mixed, tail)
