"""The Llama family's decoder: Llama-3 (MoVA), Qwen2 (stella, gte), Mistral (NV-Embed), causal or bidirectional.

RMS norm, grouped-query attention with rotary positions, SwiGLU. Token embeddings and output head belong to the port.

Axis letters: T tokens that are run, S tokens attended to, D width, H query heads, G key-value heads, d head width,
N layers. The methods take one sample.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.checkpoint.mapping import Leaf, linear_leaves, norm_leaves
from ports.common.layers.attention import BLOCK, attend_causal, join_heads, split_heads
from ports.common.layers.linear import RMSNorm, linear, normal
from ports.common.layers.rotary import rotate
from ports.common.layers.stack import Remat, layer_at, recomputed, scan_layers, stack


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the stack. `qkv_bias` adds biases to `q_proj`, `k_proj` and `v_proj`, as in Qwen2.

    `attention_block` is the number of rows of a causal prompt whose attention is computed at a time, without the keys
    that all of them mask; `remat` selects the values that the backward pass computes again.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    theta: float
    eps: float
    qkv_bias: bool = False
    dtype: str = "float32"
    attention_block: int = BLOCK
    remat: Remat = "none"

    @classmethod
    def part_of(cls, config: Any, **changes: Any) -> DecoderConfig:
        """The config made of the fields that a port's config shares with this class; `changes` override them."""
        names = {field.name for field in fields(cls)}
        shared: dict[str, Any] = {name: value for name, value in vars(config).items() if name in names}
        return cls(**(shared | changes))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Rotated keys, and values, of one layer or of a stack of layers."""

    keys: Float[Array, "*layers S G d"]
    values: Float[Array, "*layers S G d"]

    def padded(self, length: int) -> KVCache:
        """A stack's cache padded to `length` slots; masks of later steps must exclude slots not yet written."""
        free = length - self.keys.shape[-3]
        return jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, free), (0, 0), (0, 0))), self)

    def after(self, past: KVCache | None, slot: Int[Array, ""] | None = None) -> tuple[KVCache, KVCache]:
        """The part of a layer's cache that is kept, and the keys and values that its rows attend to.

        Args:
            past: of earlier rows.
            slot: with a padded cache, the place of this single row there; the whole cache is kept then.
        """
        if past is None:
            return self, self
        if slot is None:
            return self, jax.tree.map(lambda old, added: jnp.concatenate([old, added]), past, self)
        whole = jax.tree.map(lambda old, row: jax.lax.dynamic_update_slice_in_dim(old, row, slot, axis=0), past, self)
        return whole, whole

    def followed_by(self, rows: KVCache) -> KVCache:
        """A stack's cache with later rows of the same layers."""
        return jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), self, rows)

    def below(self, layers: KVCache) -> KVCache:
        """A stack's cache with that of the layers after them."""
        return jax.tree.map(lambda early, late: jnp.concatenate([early, late]), self, layers)


class SwiGLU(nnx.Module):
    """down_proj(silu(gate_proj(x)) * up_proj(x)), no biases."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs, dtype: str = "float32"):
        self.gate_proj = linear(width, hidden, rngs, dtype, bias=False)
        self.up_proj = linear(width, hidden, rngs, dtype, bias=False)
        self.down_proj = linear(hidden, width, rngs, dtype, bias=False)

    def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nnx.Module):
    """x += attention(input_layernorm(x)); x += mlp(post_attention_layernorm(x))."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.config = config
        inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
        self.input_layernorm = RMSNorm(config.width, config.eps, config.dtype)
        self.q_proj = linear(config.width, inner, rngs, config.dtype, bias=config.qkv_bias)
        self.k_proj = linear(config.width, shared, rngs, config.dtype, bias=config.qkv_bias)
        self.v_proj = linear(config.width, shared, rngs, config.dtype, bias=config.qkv_bias)
        self.o_proj = linear(inner, config.width, rngs, config.dtype, bias=False)
        self.post_attention_layernorm = RMSNorm(config.width, config.eps, config.dtype)
        self.mlp = SwiGLU(config.width, config.hidden, rngs, config.dtype)

    def project(
        self, x: Float[Array, "T D"], positions: Int[Array, "T"]
    ) -> tuple[Float[Array, "T H d"], Float[Array, "T G d"], Float[Array, "T G d"]]:
        """Rotated queries, rotated keys, values."""
        new = self.keys_values(x, positions)
        return self.queries(x, positions), new.keys, new.values

    def queries(self, x: Float[Array, "T D"], positions: Int[Array, "T"]) -> Float[Array, "T H d"]:
        """Rotated queries."""
        return rotate(
            split_heads(self.q_proj(self.input_layernorm(x)), self.config.heads), positions, self.config.theta
        )

    def keys_values(self, x: Float[Array, "T D"], positions: Int[Array, "T"]) -> KVCache:
        """Rotated keys, and values."""
        h = self.input_layernorm(x)
        key, value = (split_heads(part(h), self.config.kv_heads) for part in (self.k_proj, self.v_proj))
        return KVCache(rotate(key, positions, self.config.theta), value)

    def attend_and_mlp(
        self,
        x: Float[Array, "T D"],
        query: Float[Array, "T H d"],
        keys: Float[Array, "S G d"],
        values: Float[Array, "S G d"],
        mask: Bool[Array, "T S"] | Bool[Array, "1 S"],
        causal: bool = False,
    ) -> Float[Array, "T D"]:
        """The layer's output from queries and from all keys and values they attend to; `causal` as in `Decoder`."""
        ordered, past = (len(query), len(keys) - len(query)) if causal else (0, 0)
        attended = attend_causal(query, keys, values, mask, ordered, self.config.attention_block, past)
        x = x + self.o_proj(join_heads(attended))
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nnx.Module):
    """The layers as a scanned stack, and the final norm."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.layers = stack(lambda rngs: DecoderLayer(config, rngs), config.layers, rngs)
        self.norm = RMSNorm(config.width, config.eps, config.dtype)

    def __call__(
        self,
        x: Float[Array, "T D"],
        mask: Bool[Array, "T S"] | Bool[Array, "1 S"],
        positions: Int[Array, "T"],
        past: KVCache | None = None,
        causal: bool = False,
    ) -> tuple[Float[Array, "T D"], KVCache]:
        """Run tokens, after cached ones if there are any.

        Args:
            x: embeddings of the tokens.
            mask: True where a token attends to one of [cached tokens | these tokens]; S = T without a cache. `[1, S]`
                is the bidirectional case, where all tokens attend to the same tokens.
            positions: of these tokens, for the rotation.
            past: cache of earlier tokens; its keys are rotated already.
            causal: the mask is causal, so that masked products need not be computed.

        Returns:
            States after the final norm, and keys and values of only these T tokens. If they are not used, the compiler
            drops them.
        """
        x, new = self._run(x, mask, positions, past, causal)
        return self.norm(x), new

    def _run(
        self, x: Array, mask: Array, positions: Array, past: KVCache | None, causal: bool, stop: int | None = None
    ) -> tuple[Float[Array, "T D"], KVCache]:
        """Run the layers before `stop` on all tokens."""

        def step(layer: DecoderLayer, x: Array, past: KVCache | None) -> tuple[Array, KVCache]:
            query, key, value = layer.project(x, positions)
            new, cache = KVCache(key, value).after(past)
            return layer.attend_and_mlp(x, query, cache.keys, cache.values, mask, causal), new

        return scan_layers(self.layers, step, x, past, stop=stop, remat=self.config.remat)

    def prefill(
        self,
        x: Float[Array, "T D"],
        mask: Bool[Array, "T S"],
        positions: Int[Array, "T"],
        row: Int[Array, ""],
        past: KVCache | None = None,
    ) -> tuple[Float[Array, "D"], KVCache]:
        """Run a causal prompt of which only one row's state is needed; the last layer runs queries of that row only.

        Args:
            x, mask, positions, past: as in `__call__`.
            row: the token whose state is returned.

        Returns:
            Its state after the final norm, and keys and values as in `__call__`.
        """
        last = self.config.layers - 1

        def last_layer(x: Array, past: KVCache | None) -> tuple[Array, KVCache]:
            layer = layer_at(self.layers, last)
            x_row, mask_row, position = (part[row][None] for part in (x, mask, positions))
            new, cache = layer.keys_values(x, positions).after(past)
            query = layer.queries(x_row, position)
            return layer.attend_and_mlp(x_row, query, cache.keys, cache.values, mask_row), new

        earlier, final = (None, None) if past is None else (
            jax.tree.map(lambda leaf: leaf[:last], past), jax.tree.map(lambda leaf: leaf[last], past)
        )  # fmt: skip
        x, new = self._run(x, mask, positions, earlier, causal=True, stop=last)
        state, new_last = recomputed(last_layer, self.config.remat)(x, final)
        return self.norm(state)[0], jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), new, new_last)

    def decode(
        self, x: Float[Array, "1 D"], cache: KVCache, slot: Int[Array, ""], mask: Bool[Array, "1 S"],
        position: Int[Array, ""],
    ) -> tuple[Float[Array, "1 D"], KVCache]:  # fmt: skip
        """Run one token, writing its keys and values into slot `slot` of a padded cache.

        `mask` covers the whole cache, including the slot of this token.

        Returns:
            Its state after the final norm, and the cache with this slot filled.
        """

        def step(layer: DecoderLayer, x: Array, past: KVCache) -> tuple[Array, KVCache]:
            query, key, value = layer.project(x, position[None])
            cache, _ = KVCache(key, value).after(past, slot)
            return layer.attend_and_mlp(x, query, cache.keys, cache.values, mask), cache

        x, cache = scan_layers(self.layers, step, x, cache)
        return self.norm(x), cache


class DecoderEncoder(nnx.Module):
    """Token embeddings and a decoder without a causal mask, which embedders of texts pool."""

    def __init__(self, vocab_size: int, config: DecoderConfig, rngs: nnx.Rngs):
        self.embed_tokens = normal(rngs, (vocab_size, config.width), config.dtype)
        self.decoder = Decoder(config, rngs)

    def states(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"]) -> Float[Array, "T D"]:
        """States after the final norm; every token attends to all tokens of the mask."""
        return self.decoder(self.embed_tokens[...][tokens], mask[None], jnp.arange(tokens.shape[0]))[0]


def decoder_leaves(ours: str, theirs: str, config: DecoderConfig) -> dict[str, Leaf]:
    """Parameters of `Decoder` at path `ours`, from `layers.{i}` and `norm` at prefix `theirs` ("", "model.", ...)."""
    layer = f"{theirs}layers.{{}}"
    leaves = norm_leaves(f"{ours}/norm", f"{theirs}norm", bias=False)
    for name in ("input_layernorm", "post_attention_layernorm"):
        leaves |= norm_leaves(f"{ours}/layers/{name}", f"{layer}.{name}", config.layers, bias=False)
    for part, name, bias in (
        ("q_proj", "self_attn.q_proj", config.qkv_bias),
        ("k_proj", "self_attn.k_proj", config.qkv_bias),
        ("v_proj", "self_attn.v_proj", config.qkv_bias),
        ("o_proj", "self_attn.o_proj", False),
        ("mlp/gate_proj", "mlp.gate_proj", False),
        ("mlp/up_proj", "mlp.up_proj", False),
        ("mlp/down_proj", "mlp.down_proj", False),
    ):
        leaves |= linear_leaves(f"{ours}/layers/{part}", f"{layer}.{name}", bias=bias, layers=config.layers)
    return leaves
