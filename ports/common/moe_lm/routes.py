"""Routes of a language model: joined from the parts in which it runs, replayed from given ids, and alternatives.

Axis letters: T prompt tokens, A answer tokens, N layers, E experts, k chosen experts, M alternative routes, C targets,
D width, J levels of DeepStack.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.moe import ExpertChoice, select
from ports.common.layers.moe_decoder import MoEDecoder
from ports.common.layers.routed_experts import RoutedRows
from r2t2_jax.contract import TOKEN_KINDS, RouteLogprobs, TokenRoutes


def prompt_choice(early: ExpertChoice | None, before: ExpertChoice | None, late: ExpertChoice) -> ExpertChoice:
    """The choices at all tokens of a prompt in all layers, as [T, N, .].

    Args:
        early: of all tokens in the first layers [layers, T, .]; `None` if there are none.
        before: of the first tokens in the other layers; `None` if there are none.
        late: of the other tokens in the other layers.
    """

    def joined(first: ExpertChoice, second: ExpertChoice, axis: int) -> ExpertChoice:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=axis), first, second)

    choice = late if before is None else joined(before, late, 1)
    choice = choice if early is None else joined(early, choice, 0)
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), choice)


def token_routes(
    tokens: Int[Array, "T+A"],
    kinds: Int[Array, "T"],
    answer: Bool[Array, "A"],
    prompt: ExpertChoice,
    choices: ExpertChoice,
    logits: bool,
) -> TokenRoutes:
    """The routes of a prompt and its answer.

    Args:
        tokens: of both.
        kinds: of the prompt's tokens, indices into `TOKEN_KINDS`; -1 for padding.
        answer: the answer's tokens; the others are padding.
        prompt: choices at the prompt's tokens.
        choices: choices at the answer's tokens.
        logits: whether to keep the gates' logits.
    """
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), prompt, choices)
    return TokenRoutes(
        tokens=tokens,
        kinds=jnp.concatenate([kinds, jnp.where(answer, TOKEN_KINDS.index("answer"), -1)]),
        experts=whole.ids,
        weights=whole.weights.astype(jnp.float16),
        logits=whole.logits.astype(jnp.float16) if logits else None,
    )


def replayed_routes(
    net: MoEDecoder,
    prompt: Any,
    x: Float[Array, "T D"],
    added: Float[Array, "J T D"] | None,
    answer: Any,
    experts: Int[Array, "T+A N k"],
) -> tuple[Float[Array, "T+A N k"], Int[Array, "T+A N k"]]:
    """The combine weights of given experts in a pass that uses them, and the ids that the gates would choose.

    Args:
        net: the decoder.
        prompt: a `Prompt`.
        x, added: its states in front of layer 0, and what DeepStack adds after the first layers.
        answer: an `LMAnswer`.
        experts: ids at the tokens of both; -1 where the gate chooses.
    """
    config, places = net.config, len(answer.tokens)
    following = jnp.broadcast_to(prompt.next_position + jnp.arange(places), (3, places))
    positions = jnp.concatenate([prompt.positions, following], axis=1)
    states, mask = jnp.concatenate([x, net.embed(answer.tokens)]), jnp.concatenate([prompt.mask, answer.mask])
    added = None if added is None else jnp.pad(added, ((0, 0), (0, places), (0, 0)))
    routed = RoutedRows(experts.swapaxes(0, 1), None, "select", tuple(range(config.layers)), len(states))
    _, out = net.run(states, positions, mask, routed=routed, added=added)
    own = jax.vmap(lambda logits: select(logits, config.top_k, config.normalize).ids)(out.choice.logits)
    return out.choice.weights.swapaxes(0, 1), own.swapaxes(0, 1)


def alternative_experts(key: Array, choice: ExpertChoice, count: int) -> Int[Array, "N M k"]:
    """`count` sets of k experts in each layer, drawn by Gumbel top-k from the gate's probabilities.

    A draw of the router's own set has its last expert replaced by the next of the draw, so every set differs.

    Args:
        key: of the draws.
        choice: of one token, as [N, 1, .]; k must be below E.
        count: number M of sets.
    """
    logits, own = choice.logits[:, 0].astype(jnp.float32), choice.ids[:, 0]  # [N, E], [N, k]
    k = own.shape[-1]
    noisy = logits[:, None] + jax.random.gumbel(key, (len(logits), count, logits.shape[-1]))
    _, ids = jax.lax.top_k(noisy, k + 1)
    inside = (ids[..., :k, None] == own[:, None, None]).any(axis=-1).all(axis=-1)  # [N, M]
    last = jnp.where(inside, ids[..., k], ids[..., k - 1])
    return jnp.concatenate([ids[..., : k - 1], last[..., None]], axis=-1)


def alternative_logprobs(
    net: MoEDecoder,
    prompt: Any,
    x: Float[Array, "T D"],
    added: Float[Array, "J T D"] | None,
    answer: Any,
    targets: Int[Array, "A C"],
    key: Array,
    alternatives: int,
) -> RouteLogprobs:
    """Scores of targets at each place of an answer, under the router's routes and under alternatives in each layer.

    Args:
        net: the decoder.
        prompt: a `Prompt`, whose last token is no image's.
        x, added: its states in front of layer 0, and what DeepStack adds after the first layers.
        answer: an `LMAnswer`.
        targets: token ids.
        key: of the draws.
        alternatives: number M of routes in each layer.
    """
    layers, places, before = net.config.layers, len(answer.tokens), len(prompt.tokens) - 1
    past = None if added is None else added[:, :-1]
    _, out = net.run(x[:-1], prompt.positions[:, :-1], prompt.mask[:-1], added=past)
    following = jnp.broadcast_to(prompt.next_position + jnp.arange(places - 1), (3, places - 1))
    positions = jnp.concatenate([prompt.positions[:, -1:], following], axis=1)
    states = jnp.concatenate([x[-1:], net.embed(answer.tokens[:-1])])  # [A, D]

    def place(cache: Any, row: Any) -> tuple[Any, RouteLogprobs]:
        """One place: the router's own pass, which extends the cache, and all alternatives as rows."""
        number, state, position, targets, key = row
        valid = jnp.concatenate([prompt.mask[:-1], jnp.arange(places) <= number])
        earlier = jnp.concatenate([prompt.mask[:-1], jnp.arange(places) < number, jnp.ones(1, bool)])
        _, own = net.run(state[None], position[:, None], valid, past=cache, slot=before + number)
        drawn = alternative_experts(key, own.choice, alternatives)  # [N, M, k]
        here = jnp.eye(layers, dtype=bool)[:, None, :, None]  # [N, 1, N, 1]
        imposed = jnp.where(here, drawn[:, :, None], -1).reshape(-1, layers, 1, drawn.shape[-1])
        imposed = jnp.concatenate([jnp.full_like(imposed[:1], -1), imposed])  # [1 + N * M, N, 1, k]

        def scores(ids: Int[Array, "N 1 k"]) -> tuple[Float[Array, "C"], Int[Array, ""]]:
            routed = RoutedRows(ids, None, "select", tuple(range(layers)), 1)
            last, _ = net.run(state[None], position[:, None], earlier, past=cache, routed=routed)
            logprobs = jax.nn.log_softmax(net.logits(last)[0])
            return logprobs[targets], logprobs.argmax().astype(jnp.int32)

        logprobs, tokens = jax.vmap(scores)(imposed)
        shape = (layers, alternatives)
        return own.cache, RouteLogprobs(
            logprobs[0], tokens[0], logprobs[1:].reshape(*shape, -1), tokens[1:].reshape(shape)
        )

    rows = (jnp.arange(places), states, positions.T, targets, jax.random.split(key, places))
    return jax.lax.scan(place, out.cache.padded(before + places), rows)[1]
