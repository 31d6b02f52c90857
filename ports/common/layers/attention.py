"""Attention on one sample: the function that all ports use, and the self-attention module of encoders.

Axis letters: T queries, S keys, H query heads, G key-value heads, R = H / G query heads a group, d head width,
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
        keys: rotated already, if the model uses rotary positions.
        values: one row for each key.
        mask: True where a query attends to a key; a query without any key gets the mean of all values. None: all keys.
        bias: added to the scores.
        scale: of the scores; None for 1 / sqrt(d).

    Returns:
        The output of each head, in the dtype of `values`.
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


BLOCK = 256  # rows; small enough to skip nearly half the products of a long prompt, large enough for fast ones


def row_blocks(ordered: int, block: int) -> list[tuple[int, int]]:
    """Pairs (start, stop) of the row blocks, of at most `block` rows, that `attend_causal` runs."""
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
    """`attend` for causal rows, without computing most of the products that the mask discards.

    Args:
        query, keys, values, mask: as for `attend`.
        ordered: the number of leading rows that are causal among each other; the mask must agree. They are run in
            blocks, each with the keys up to its end and the keys after the ordered rows.
        block: maximal number of rows in a block.
        past: number of keys before those of the rows.
    """
    blocks = row_blocks(ordered, block)
    if len(blocks) < 2:
        return attend(query, keys, values, mask)

    def visible(x: Array, last: int, axis: int = 0) -> Array:
        before = jax.lax.slice_in_dim(x, 0, past + last, axis=axis)
        after = jax.lax.slice_in_dim(x, past + ordered, x.shape[axis], axis=axis)
        return jnp.concatenate([before, after], axis=axis)

    outputs = [
        attend(query[first:last], visible(keys, last), visible(values, last), visible(mask[first:last], last, axis=1))
        for first, last in blocks
    ]
    if len(query) > ordered:
        outputs.append(attend(query[ordered:], keys, values, mask[ordered:]))
    return jnp.concatenate(outputs)


def split_heads(x: Float[Array, "T D"], heads: int) -> Float[Array, "T H d"]:
    """Contiguous slices of the last axis become heads."""
    return x.reshape(x.shape[0], heads, -1)


def split_qkv(x: Float[Array, "T 3D"], heads: int) -> list[Float[Array, "T H d"]]:
    """Queries, keys and values, in this order along the last axis."""
    return [split_heads(part, heads) for part in jnp.split(x, 3, axis=-1)]


def join_heads(x: Float[Array, "T H d"]) -> Float[Array, "T D"]:
    """The inverse of `split_heads`."""
    return x.reshape(x.shape[0], -1)


def causal_mask(valid: Bool[Array, "T"]) -> Bool[Array, "T T"]:
    """Every token attends to itself and to the valid tokens before it."""
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
