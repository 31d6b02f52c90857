"""Attention among few tokens, written for CPUs.

CPU libraries spend more time on starting a product of matrices of 16 columns than on computing it, and XLA does not
fuse it with what is around it. Here each sum over tokens is a sum of outer products (`combine`, `scatter`, `expand`),
which XLA compiles to one loop over all samples, neighbors and heads together with the transpositions around it.

Scores are not scaled here: the caller scales the keys.

Axis letters: T tokens with queries, C tokens of the context, S tokens with keys, N = C + S keys, H heads, d width of a
head, D width of a token's state. One sample; batches are `vmap` outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r2t2_jax.contract import OUTER_PRODUCTS

MASKED = -1e9

Queries = Float[Array, "T H d"]
Context = tuple[Float[Array, "C H d"], Float[Array, "C H d"]]
Keys = Float[Array, "S H d"]
States = Float[Array, "S D"]
Projected = Float[Array, "T H D"]


@jax.custom_vjp
def attend(query: Queries, context: Context, keys: Keys, values: Keys, mask: Bool[Array, "T N"]) -> Queries:
    """Softmax attention over the tokens of a context and then `keys`.

    It equals `jax.nn.dot_product_attention` with a scale of one over the joined keys and values. The weights are not
    normalized before they are multiplied with the values, but the result is, which has fewer elements.

    Args:
        query: of T tokens.
        context: keys and values of C tokens.
        keys: of S tokens.
        values: of the same tokens.
        mask: true where a query sees a key.
    """
    return _attend(query, context, keys, values, mask)[0]


def _attend(
    query: Queries, context: Context, keys: Keys, values: Keys, mask: Bool[Array, "T N"]
) -> tuple[Queries, Any]:
    """The result, and what its gradient reads."""
    scores = score(query, context[0], keys) + jnp.where(mask, 0.0, MASKED)[None]
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))  # [H, T, N]
    total = weights.sum(axis=-1, keepdims=True)  # [H, T, 1]
    attended = combine(weights, context[1], values) / total.swapaxes(0, 1)
    return attended, (query, context, keys, values, weights, total)


def _attend_gradient(saved: Any, gradient: Queries) -> tuple[Queries, Context, Keys, Keys, None]:
    """The gradient with respect to every argument but the mask."""
    query, context, keys, values, weights, total = saved
    gradient = gradient / total.swapaxes(0, 1)
    slopes = score(gradient, context[1], values)
    slopes = weights * (slopes - (weights * slopes).sum(axis=-1, keepdims=True) / total)  # of the loss by the scores
    split = len(context[0])
    return (
        combine(slopes, context[0], keys),
        (scatter(slopes[..., :split], query), scatter(weights[..., :split], gradient)),
        scatter(slopes[..., split:], query),
        scatter(weights[..., split:], gradient),
        None,
    )


attend.defvjp(_attend, _attend_gradient)


@jax.custom_vjp
def attend_states(
    query: Queries, projected: Projected, context: Context, states: States, mask: Bool[Array, "T N"]
) -> tuple[Projected, Queries]:
    """Softmax attention over the tokens of a context and then tokens whose keys and values are not computed.

    These keys and values are products of states with weights. For few queries it takes fewer operations to multiply the
    queries with the key weights, q (W s) = (q W) s, and the weighted sum of states with the value weights.

    Args:
        query: of T tokens.
        projected: the queries multiplied with the key weights of their head.
        context: keys and values of C tokens.
        states: of S tokens.
        mask: true where a query sees a token. A token of the context that no query sees may have any key and value.

    Returns:
        The weighted sums of the states and of the context's values. The result of the attention is the first,
        multiplied with the value weights of each head, plus the second.
    """
    return _attend_states(query, projected, context, states, mask)[0]


def _attend_states(
    query: Queries, projected: Projected, context: Context, states: States, mask: Bool[Array, "T N"]
) -> tuple[tuple[Projected, Queries], Any]:
    """The results, and what their gradients read."""
    split = len(context[0])
    scores = jnp.concatenate([expand(query, columns(context[0], mask)), projected @ states.T], axis=-1)
    weights = jax.nn.softmax(scores + jnp.where(mask, 0.0, MASKED)[:, None], axis=-1)  # [T, H, N]
    sums = weights[..., split:] @ states, expand(weights[..., :split], context[1])
    return sums, (query, projected, context, states, mask, weights)


def _attend_states_gradient(
    saved: Any, gradients: tuple[Projected, Queries]
) -> tuple[Queries, Projected, Context, States, None]:
    """The gradients with respect to every argument but the mask."""
    query, projected, context, states, mask, weights = saved
    of_states, of_values = gradients
    split, rows = len(context[0]), projected.shape[0] * projected.shape[1]
    slopes = jnp.concatenate([expand(of_values, columns(context[1], mask)), of_states @ states.T], axis=-1)
    slopes = weights * (slopes - (weights * slopes).sum(axis=-1, keepdims=True))  # of the loss by the scores
    factors = jnp.concatenate([part[..., split:].reshape(rows, -1) for part in (slopes, weights)])  # [2 T H, S]
    others = jnp.concatenate([part.reshape(rows, -1) for part in (projected, of_states)])  # [2 T H, D]
    return (
        expand(slopes[..., :split], context[0]),
        slopes[..., split:] @ states,
        (
            jnp.einsum("thc,thd->chd", slopes[..., :split], query),
            jnp.einsum("thc,thd->chd", weights[..., :split], of_values),
        ),
        expand(factors.T, others),
        None,
    )


attend_states.defvjp(_attend_states, _attend_states_gradient)


def score(query: Queries, context: Float[Array, "C H d"], keys: Keys) -> Float[Array, "H T N"]:
    """Dot products of queries with the keys of a context and then `keys`."""
    joined = jnp.concatenate([context.swapaxes(0, 1), keys.swapaxes(0, 1)], axis=1)  # [H, N, d]
    return jnp.einsum("htd,hnd->htn", query.swapaxes(0, 1), joined)


@jax.named_scope(OUTER_PRODUCTS)
def combine(weights: Float[Array, "H T N"], context: Float[Array, "C H d"], rows: Keys) -> Queries:
    """sum_n weights[h, t, n] joined[n, h] for every query, where `joined` is the context and then the rows."""
    joined = (row.swapaxes(0, 1) for part in (context, rows) for row in unstack(part, 0))  # N of [H, 1, d]
    products = (column * row for column, row in zip(unstack(weights, 2), joined, strict=True))  # [H, T, d]
    return add_up(products).swapaxes(0, 1)


@jax.named_scope(OUTER_PRODUCTS)
def scatter(weights: Float[Array, "H T S"], rows: Queries) -> Keys:
    """sum_t weights[h, t, s] rows[t][h] for every key: `combine` for transposed weights."""
    pairs = zip(unstack(weights, 1), unstack(rows, 0), strict=True)  # T of [H, 1, S] and [1, H, d]
    products = (column.swapaxes(1, 2) * row.swapaxes(0, 1) for column, row in pairs)  # [H, S, d]
    return add_up(products).swapaxes(0, 1)


@jax.named_scope(OUTER_PRODUCTS)
def expand(factors: Float[Array, "T *B N"], rows: Float[Array, "N *B d"]) -> Float[Array, "T *B d"]:
    """sum_n factors[..., n] rows[n]."""
    pairs = zip(unstack(factors, factors.ndim - 1), unstack(rows, 0), strict=True)
    return add_up(column * row for column, row in pairs)


def columns(part: Float[Array, "C H d"], mask: Bool[Array, "T N"]) -> Float[Array, "d H C"]:
    """Keys or values of a context, transposed, and zero where no query sees the token.

    XLA moves this product out of a loop of descent steps, which it does not do with a transposition.
    """
    return part.transpose(2, 1, 0) * mask[:, : len(part)].any(axis=0)[None, None]


def add_up(terms: Iterable[Array]) -> Array:
    """The sum, from two sums, since an addition waits for the one before it."""
    terms = list(terms)
    return reduce(add, (reduce(add, terms[first::2]) for first in range(min(2, len(terms)))))


def unstack(array: Array, axis: int) -> Sequence[Array]:
    """The slices of length one along an axis. One operation, which is traced faster than as many indices."""
    return jax.lax.split(array, (1,) * array.shape[axis], axis)
