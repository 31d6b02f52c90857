"""One mixer of the adapter: gate, a cross-attention for each expert, their weighted sum, self-attention, feed-forward.

Axis letters: E experts, N tokens of the map, H heads, d head width, D width, C channels of an expert, M text width.
One sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ports.common.checkpoint.mapping import Layers, Leaf, linear_leaves, norm_leaves
from ports.common.layers.attention import attend, join_heads, split_heads
from ports.common.layers.linear import LayerNorm, linear
from ports.common.layers.stack import recomputed, scan_layers, stack
from ports.mova.config import AdapterConfig
from ports.mova.layers import GatedNormed, angles, gated_leaves, rotate_pairs

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


class Gate(nnx.Module):
    """Logits over the experts from the question and the mean of the stream, in this order."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        self.up = linear(config.text_width + config.width, config.width, rngs, config.dtype)
        self.down = linear(config.width, len(config.expert_widths), rngs, config.dtype)

    def __call__(self, text: Float[Array, "M"], x: Float[Array, "N D"]) -> Float[Array, "E"]:
        seen = jnp.concatenate([text, x.mean(axis=0)])
        return self.down(jax.nn.gelu(self.up(seen), approximate=False))


class Source(nnx.Module):
    """An expert's keys and values, from its normed features."""

    def __init__(self, config: AdapterConfig, channels: int, rngs: nnx.Rngs):
        self.norm = LayerNorm(channels, config.eps, config.dtype)
        self.keys_values = KeysValues(config, channels, rngs)

    def __call__(self, features: Float[Array, "N C"]) -> Projected:
        return self.keys_values(self.norm(features))


class Look(nnx.Module):
    """What the normed stream reads from one expert."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        self.norm = LayerNorm(config.width, config.eps, config.dtype)
        self.read = Read(config, rngs)

    def __call__(self, x: Float[Array, "N D"], source: Projected) -> Float[Array, "N D"]:
        return self.read(self.norm(x), *source)


class AdapterBlock(nnx.Module):
    """x += sum_e w_e look_e(x, expert e); x += attention(x); x += feed_forward(x)."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        width, self.remat = config.width, config.remat
        self.gate = Gate(config, rngs)
        self.sources = nnx.List([Source(config, channels, rngs) for channels in config.expert_widths])
        self.looks = stack(lambda rngs: Look(config, rngs), len(config.expert_widths), rngs)
        self.norm1 = LayerNorm(width, config.eps, config.dtype)
        self.keys_values = KeysValues(config, width, rngs)
        self.read = Read(config, rngs)
        self.norm2 = LayerNorm(width, config.eps, config.dtype)
        self.feed_forward = GatedNormed(width, config.hidden, config.eps, rngs, config.dtype)

    def project(
        self, experts: Sequence[Float[Array, "N C"]]
    ) -> tuple[Float[Array, "E N H d"], Float[Array, "E N H d"]]:
        """Keys and values of every expert: independent of the stream, hence of routing."""
        keys, values = zip(*(source(part) for source, part in zip(self.sources, experts, strict=True)), strict=True)
        return jnp.stack(keys), jnp.stack(values)

    def look(
        self, x: Float[Array, "N D"], keys: Float[Array, "E N H d"], values: Float[Array, "E N H d"]
    ) -> Float[Array, "E N D"]:
        """What the stream reads from each expert: one expert at a time."""
        _, read = scan_layers(
            self.looks, lambda look, x, source: (x, look(x, source)), x, (keys, values), remat=self.remat
        )  # fmt: skip
        return read

    def mix(
        self, x: Float[Array, "N D"], read: Float[Array, "E N D"], weights: Float[Array, "E"]
    ) -> Float[Array, "N D"]:
        """The weighted sum over experts, then the rest of the block."""
        return recomputed(self.finish, self.remat)(x + jnp.einsum("e,end->nd", weights.astype(x.dtype), read))

    def finish(self, x: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """Self-attention and feed-forward: all there is of a block without experts."""
        h = self.norm1(x)
        x = x + self.read(h, *self.keys_values(h))
        return x + self.feed_forward(self.norm2(x))


def block_leaves(ours: str, theirs: str, config: AdapterConfig) -> dict[str, Leaf]:
    """Parameters of `AdapterBlock` at path `ours`, from an AdapterBlock of upstream called `theirs`."""
    experts = len(config.expert_widths)
    leaves = {
        **linear_leaves(f"{ours}/gate/up", f"{theirs}.gate.0"),
        **linear_leaves(f"{ours}/gate/down", f"{theirs}.gate.2"),
        **norm_leaves(f"{ours}/looks/norm", f"{theirs}.norm1.{{}}", experts),
        **read_leaves(f"{ours}/looks/read", f"{theirs}.cross_attn.{{}}", experts),
        **norm_leaves(f"{ours}/norm1", f"{theirs}.norm3"),
        **keys_values_leaves(f"{ours}/keys_values", f"{theirs}.self_attn"),
        **read_leaves(f"{ours}/read", f"{theirs}.self_attn"),
        **norm_leaves(f"{ours}/norm2", f"{theirs}.norm4"),
        **gated_leaves(f"{ours}/feed_forward", f"{theirs}.mlp"),
    }
    for number in range(experts):
        leaves |= norm_leaves(f"{ours}/sources/{number}/norm", f"{theirs}.norm2.{number}")
        leaves |= keys_values_leaves(f"{ours}/sources/{number}/keys_values", f"{theirs}.cross_attn.{number}")
    return leaves
