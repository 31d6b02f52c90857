"""Attention of the adapter over the map: rotary positions on both sides, a norm before the way out.

What depends on an expert's channels (keys and values) stands apart from what has one shape for all experts (queries and
the way out), so that the latter can be a stack over experts. Both take normed inputs.

Axis letters: N tokens of the map, H heads, d head width, D width, C channels of an expert. One sample.
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from ports.common.attention import attend, join_heads, split_heads
from ports.common.linear import linear
from ports.common.mapping import Layers, Leaf, linear_leaves, norm_leaves
from ports.common.norms import LayerNorm
from ports.mova.config import AdapterConfig
from ports.mova.rope2d import angles, rotate_pairs

Projected = tuple[Float[Array, "N H d"], Float[Array, "N H d"]]


class KeysValues(nnx.Module):
    """Rotated keys, and values; no biases."""

    def __init__(self, config: AdapterConfig, width: int, rngs: nnx.Rngs):
        self.config = config
        self.key = linear(width, config.width, rngs, config.dtype, bias=False)
        self.value = linear(width, config.width, rngs, config.dtype, bias=False)

    def __call__(self, features: Float[Array, "N C"]) -> Projected:
        turns = angles(self.config.grid, self.config.grid, self.config.head_width)
        keys, values = (split_heads(part(features), self.config.heads) for part in (self.key, self.value))
        return rotate_pairs(keys, turns), values


class Read(nnx.Module):
    """What the stream reads from keys and values: out(norm(attention))."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        self.config = config
        self.query = linear(config.width, config.width, rngs, config.dtype, bias=False)
        self.out_norm = LayerNorm(config.width, config.eps, config.dtype)
        self.out = linear(config.width, config.width, rngs, config.dtype)

    def __call__(
        self, x: Float[Array, "N D"], keys: Float[Array, "N H d"], values: Float[Array, "N H d"]
    ) -> Float[Array, "N D"]:
        turns = angles(self.config.grid, self.config.grid, self.config.head_width)
        query = rotate_pairs(split_heads(self.query(x), self.config.heads), turns)
        return self.out(self.out_norm(join_heads(attend(query, keys, values))))


def keys_values_leaves(ours: str, theirs: str) -> dict[str, Leaf]:
    """Parameters of `KeysValues`, from an attention of upstream."""
    return {
        **linear_leaves(f"{ours}/key", f"{theirs}.k_proj", bias=False),
        **linear_leaves(f"{ours}/value", f"{theirs}.v_proj", bias=False),
    }


def read_leaves(ours: str, theirs: str, layers: Layers = None) -> dict[str, Leaf]:
    """Parameters of `Read`, from an attention of upstream; with `layers`, a stack, and `theirs` has a `{}`."""
    return {
        **linear_leaves(f"{ours}/query", f"{theirs}.q_proj", bias=False, layers=layers),
        **norm_leaves(f"{ours}/out_norm", f"{theirs}.inner_attn_ln", layers),
        **linear_leaves(f"{ours}/out", f"{theirs}.proj", layers=layers),
    }
