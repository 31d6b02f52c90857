"""Attention on one sample: the core that every port uses, and self-attention of encoders on top of it.

Axis letters: T queries, S keys, H query heads, G key-value heads, R = H / G query heads that share one, d head width,
v value width, D width. Batches are `vmap` or `lax.map` outside.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ports.common.layers.linear import linear


def attend(
    query: Float[Array, "T H d"],
    keys: Float[Array, "S G d"],
    values: Float[Array, "S G v"],
    mask: Bool[Array, "T S"] | Bool[Array, "1 S"] | None = None,
    bias: Float[Array, "H T S"] | Float[Array, "1 T S"] | None = None,
    scale: float | None = None,
) -> Float[Array, "T H v"]:
    """softmax(scale * q k^T + bias) v, scores and softmax in float32.

    Args:
        query: H heads; head h uses key-value head h // (H / G).
        keys: as they are, rotated already where the model does that.
        values: of the keys.
        mask: which keys a query sees; a query that sees none gets the plain mean of the values. None: all of them.
        bias: added to the scores.
        scale: 1 / sqrt(d) where not given.

    Returns:
        What each head read, in the dtype of `values`.
    """
    (length, heads, width), groups = query.shape, keys.shape[1]
    grouped = query.reshape(length, groups, heads // groups, width)
    scores = jnp.einsum("tgrd,sgd->grts", grouped, keys, preferred_element_type=jnp.float32)
    scores = scores.reshape(heads, length, -1) * (width**-0.5 if scale is None else scale)  # [H, T, S]
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    weights = weights.reshape(groups, heads // groups, length, -1)  # [G, R, T, S]
    return jnp.einsum("grts,sgv->tgrv", weights, values).reshape(length, heads, -1)


BLOCK = 256  # rows: small enough to leave out nearly half of a long prompt's products, large enough for fast ones


def row_blocks(ordered: int, block: int) -> list[tuple[int, int]]:
    """The blocks of at most `block` rows, first and one behind the last, in which `attend_causal` runs so many rows."""
    number = -(-ordered // block)
    return [(ordered * part // number, ordered * (part + 1) // number) for part in range(number)]


def attend_causal(
    query: Float[Array, "T H d"],
    keys: Float[Array, "S G d"],
    values: Float[Array, "S G v"],
    mask: Bool[Array, "T S"],
    ordered: int,
    block: int = BLOCK,
    past: int = 0,
) -> Float[Array, "T H v"]:
    """`attend` without the products that the mask throws away, where rows see each other in their order.

    Args:
        query, keys, values, mask: as for `attend`.
        ordered: the first so many rows see, of each other, only themselves and rows before them, as the mask says too.
            They are run in blocks, each with the keys up to its end and those behind the ordered rows.
        block: rows of a block, at most.
        past: keys before those of the rows.
    """
    blocks = row_blocks(ordered, block)
    if len(blocks) < 2:
        return attend(query, keys, values, mask)

    def seen(x: Array, last: int, axis: int = 0) -> Array:
        before = jax.lax.slice_in_dim(x, 0, past + last, axis=axis)
        behind = jax.lax.slice_in_dim(x, past + ordered, x.shape[axis], axis=axis)
        return jnp.concatenate([before, behind], axis=axis)

    read = [
        attend(query[first:last], seen(keys, last), seen(values, last), seen(mask[first:last], last, axis=1))
        for first, last in blocks
    ]
    if len(query) > ordered:
        read.append(attend(query[ordered:], keys, values, mask[ordered:]))
    return jnp.concatenate(read)


def split_heads(x: Float[Array, "T D"], heads: int) -> Float[Array, "T H d"]:
    """Contiguous slices of the last axis become heads."""
    return x.reshape(x.shape[0], heads, -1)


def join_heads(x: Float[Array, "T H d"]) -> Float[Array, "T D"]:
    """The inverse of `split_heads`."""
    return x.reshape(x.shape[0], -1)


def causal_mask(valid: Bool[Array, "T"]) -> Bool[Array, "T T"]:
    """Every token sees itself and the valid tokens before it."""
    length = valid.shape[0]
    return jnp.tril(jnp.ones((length, length), bool)) & (valid[None] | jnp.eye(length, dtype=bool))


class SelfAttention(nnx.Module):
    """Multi-head self-attention of an encoder (CLIP, BERT, DINOv2): biases on all four projections."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs, dtype: str = "float32"):
        self.heads = heads
        self.q_proj = linear(width, width, rngs, dtype)
        self.k_proj = linear(width, width, rngs, dtype)
        self.v_proj = linear(width, width, rngs, dtype)
        self.o_proj = linear(width, width, rngs, dtype)

    def __call__(self, x: Float[Array, "T D"], mask: Bool[Array, "1 T"] | None = None) -> Float[Array, "T D"]:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, keys, values = (split_heads(project(x), self.heads) for project in projections)
        return self.o_proj(join_heads(attend(query, keys, values, mask)))
