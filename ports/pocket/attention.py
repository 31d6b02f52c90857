"""Attention among few tokens, written for CPUs.

CPU libraries spend more time on starting a product of matrices of 16 columns than on computing it, and XLA does not
fuse it with what is around it. Here each sum over tokens is a sum of outer products (`combine`, `scatter`), which XLA
compiles to one loop over all samples, neighbors and heads together with the transpositions around it.

Axis letters: T tokens with queries, C tokens of the context, S tokens with keys, N = C + S keys, H heads, d width of a
head. One sample; batches are `vmap` outside.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@jax.custom_vjp
def attend(query: Queries, context: Context, keys: Keys, values: Keys, mask: Bool[Array, "T N"]) -> Queries:
    """Softmax attention over the tokens of a context and then `keys`.

    It equals `jax.nn.dot_product_attention` over the joined keys and values. The weights are not normalized before they
    are multiplied with the values, but the result is, which has fewer elements.

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
    scale = query.shape[-1] ** -0.5
    # The scale belongs to the keys: XLA moves products with constants, but no slices, out of a loop of descent steps.
    context, keys = (context[0] * scale, context[1]), keys * scale
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
    split, scale = len(context[0]), query.shape[-1] ** -0.5
    return (
        combine(slopes, context[0], keys),
        (scatter(slopes[..., :split], query) * scale, scatter(weights[..., :split], gradient)),
        scatter(slopes[..., split:], query) * scale,
        scatter(weights[..., split:], gradient),
        None,
    )


attend.defvjp(_attend, _attend_gradient)


def score(query: Queries, context: Float[Array, "C H d"], keys: Keys) -> Float[Array, "H T N"]:
    """Dot products of queries with the keys of a context and then `keys`."""
    joined = jnp.concatenate([context.swapaxes(0, 1), keys.swapaxes(0, 1)], axis=1)  # [H, N, d]
    return jnp.einsum("htd,hnd->htn", query.swapaxes(0, 1), joined)


@jax.named_scope(OUTER_PRODUCTS)
def combine(weights: Float[Array, "H T N"], context: Float[Array, "C H d"], rows: Keys) -> Queries:
    """sum_n weights[h, t, n] joined[n, h] for every query, where `joined` is the context and then the rows."""
    joined = (row.swapaxes(0, 1) for part in (context, rows) for row in unstack(part, 0))  # N of [H, 1, d]
    products = (column * row for column, row in zip(unstack(weights, 2), joined, strict=True))  # [H, T, d]
    return reduce(add, products).swapaxes(0, 1)


@jax.named_scope(OUTER_PRODUCTS)
def scatter(weights: Float[Array, "H T S"], rows: Queries) -> Keys:
    """sum_t weights[h, t, s] rows[t][h] for every key: `combine` for transposed weights."""
    columns, split = unstack(weights, 1), unstack(rows, 0)  # T of [H, 1, S] and of [1, H, d]
    products = (column.swapaxes(1, 2) * row.swapaxes(0, 1) for column, row in zip(columns, split, strict=True))
    return reduce(add, products).swapaxes(0, 1)


def unstack(array: Array, axis: int) -> Sequence[Array]:
    """The slices of length one along an axis. One operation, which is traced faster than as many indices."""
    return jax.lax.split(array, (1,) * array.shape[axis], axis)
