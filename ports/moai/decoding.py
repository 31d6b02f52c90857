"""Greedy decoding and beam search over the keys and values of the prompt.

Decoding ends at one of the config's `stop_ids`: `</s>`, and the end of the assistant's turn. Upstream stops at the
first alone and cuts the text at the second afterwards: the greedy text is the same, what follows it is not computed.

Axis letters: A answer tokens, B beams, V vocabulary, S slots of the cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ports.moai.continuation import run_one
from ports.moai.data import Cache, Layout
from ports.moai.modeling import MoAINet


def _step(
    net: MoAINet, token: Int[Array, ""], number: Int[Array, ""], cache: Cache, place: Layout, free: int
) -> tuple[Float[Array, "V"], Cache]:
    """Logits behind the answer's token `number`, counted from 0."""
    prompt = place.valid.shape[0]
    visible = jnp.concatenate([place.valid, jnp.arange(free) <= number])
    x, cache = run_one(net, token, place.length + number, cache, prompt + number, visible)
    return net.logits(x)[0], cache


def _ends(net: MoAINet, tokens: Int[Array, "*B"]) -> Bool[Array, "*B"]:
    stops = jnp.asarray(net.config.stop_ids)
    return (tokens[..., None] == stops.reshape((1,) * tokens.ndim + (-1,))).any(axis=-1)


def greedy(
    net: MoAINet, logits: Float[Array, "V"], cache: Cache, place: Layout, max_new_tokens: int
) -> Int[Array, "A"]:
    """The likeliest token each time.

    Args:
        net: the model.
        logits: behind the prompt.
        cache: of the prompt.
        place: of the prompt.
        max_new_tokens: A; less is computed where the answer ends earlier.

    Returns:
        Tokens with the one that ended them, then padding.
    """
    tokens = jnp.full(max_new_tokens, net.config.pad_id, jnp.int32)

    def unfinished(state: tuple[Any, ...]) -> Bool[Array, ""]:
        number, tokens, _, _ = state
        ended = (number > 0) & _ends(net, tokens[jnp.maximum(number - 1, 0)])
        return (number < max_new_tokens) & ~ended

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        number, tokens, logits, cache = state
        chosen = logits.argmax().astype(tokens.dtype)
        logits, cache = _step(net, chosen, number, cache, place, max_new_tokens)
        return number + 1, tokens.at[number].set(chosen), logits, cache

    start = (jnp.asarray(0), tokens, logits, cache.padded(max_new_tokens))
    return jax.lax.while_loop(unfinished, step, start)[1]


class _Beams(NamedTuple):
    number: Int[Array, ""]  # tokens chosen so far
    tokens: Int[Array, "B A"]
    totals: Float[Array, "B"]  # log-probability; minus infinity for a beam that does not count
    logits: Float[Array, "B V"]
    cache: Cache  # every leaf [B, layers, S, G, d]
    finished: Int[Array, "B A"]
    means: Float[Array, "B"]  # log-probability a token of the finished; minus infinity for none yet
    settled: Bool[Array, ""]


def beams(
    net: MoAINet, logits: Float[Array, "V"], cache: Cache, place: Layout, max_new_tokens: int, num_beams: int
) -> Int[Array, "A"]:
    """The answer with the highest log-probability a token that a beam search finds.

    The rule is that of Hugging Face's generate with `length_penalty=1`, `early_stopping=False`: running beams are
    ranked by their total log-probability; one that ends leaves them and is kept with its total divided by its number of
    tokens, the ending one counted; beams still running at the limit are judged in the same way. The search stops
    earlier once `num_beams` answers are finished and the best running total divided by its length so far is no better
    than the worst of them.

    Args:
        net, logits, cache, place, max_new_tokens: as for `greedy`.
        num_beams: B.
    """
    vocabulary = logits.shape[0]
    empty = jnp.full((num_beams, max_new_tokens), net.config.pad_id, jnp.int32)
    first = jnp.arange(num_beams) == 0  # all beams start alike: one counts
    start = _Beams(
        number=jnp.asarray(0),
        tokens=empty,
        totals=jnp.where(first, 0.0, -jnp.inf),
        logits=jnp.broadcast_to(logits, (num_beams, vocabulary)),
        cache=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_beams, *leaf.shape)), cache.padded(max_new_tokens)),
        finished=empty,
        means=jnp.full(num_beams, -jnp.inf),
        settled=jnp.asarray(False),
    )

    def step(state: _Beams) -> _Beams:
        chosen = _extend(net, state)

        def run(token: Array, cache: Cache) -> tuple[Array, Cache]:
            return _step(net, token, state.number, cache, place, max_new_tokens)

        logits, cache = jax.vmap(run)(chosen.tokens[:, state.number], chosen.cache)
        return chosen._replace(number=state.number + 1, logits=logits, cache=cache)

    found = jax.lax.while_loop(lambda state: (state.number < max_new_tokens) & ~state.settled, step, start)
    running = jnp.where(found.settled, -jnp.inf, found.totals / found.number)
    every = jnp.concatenate([found.finished, found.tokens])
    return every[jnp.concatenate([found.means, running]).argmax()]


def _extend(net: MoAINet, state: _Beams) -> _Beams:
    """Each beam with each next token: the best B that go on, and the best B of all that have ended."""
    count, vocabulary = state.logits.shape
    length = state.number + 1
    totals = (state.totals[:, None] + jax.nn.log_softmax(state.logits)).reshape(-1)  # [B V]
    totals, best = jax.lax.top_k(totals, 2 * count)  # enough to go on with, should half of them end
    parent, token = best // vocabulary, (best % vocabulary).astype(state.tokens.dtype)
    tokens = state.tokens[parent].at[:, state.number].set(token)  # [2 B, A]
    ends = _ends(net, token)

    counted = ends & (jnp.arange(2 * count) < count)  # what ends below the best B is dropped
    means = jnp.concatenate([state.means, jnp.where(counted, totals / length, -jnp.inf)])
    means, kept = jax.lax.top_k(means, count)
    finished = jnp.concatenate([state.finished, tokens])[kept]

    running, going = jax.lax.top_k(jnp.where(ends, -jnp.inf, totals), count)
    return state._replace(
        tokens=tokens[going],
        totals=running,
        cache=jax.tree.map(lambda leaf: leaf[parent[going]], state.cache),
        finished=finished,
        means=means,
        settled=means.min() >= totals[0] / length,
    )
