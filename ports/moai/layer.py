"""A decoder layer of InternLM2: packed queries, keys and values, and partial LoRA on the rows of image tokens.

Image rows come first in memory (`batch.SequenceLayout`), so the image tokens are a static slice: `images` counts them.

Axis letters: T rows that are run, S slots attended to, N image rows, D width, H query heads, G key-value heads,
R = H / G, d head width.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.attention import attend_causal, join_heads
from ports.common.layers.decoder import KVCache
from ports.common.layers.linear import RMSNorm, linear
from ports.common.layers.rotary import rotate
from ports.moai.config import MoAIConfig


class PLoRA(nnx.Module):
    """y = W x; on image rows y = W x + (alpha / rank) B A x, or y = W' x with the two merged."""

    def __init__(self, inside: int, outside: int, config: MoAIConfig, rngs: nnx.Rngs):
        self.scale = config.plora_scale
        self.main = linear(inside, outside, rngs, config.dtype, bias=False)
        self.merged = config.merged_plora
        if self.merged:
            self.image = linear(inside, outside, rngs, config.dtype, bias=False)
        else:
            self.lora_a = linear(inside, config.plora_rank, rngs, config.dtype, bias=False)
            self.lora_b = linear(config.plora_rank, outside, rngs, config.dtype, bias=False)

    def __call__(
        self, x: Float[Array, "T inside"], images: int, columns: Callable[[Array], Array] = lambda kernel: kernel
    ) -> Float[Array, "T outside"]:
        """The product; the first `images` rows are image tokens, and `columns` selects columns of the output."""
        main = columns(self.main.kernel[...])
        if not images:
            return x @ main
        if self.merged:
            return jnp.concatenate([x[:images] @ columns(self.image.kernel[...]), x[images:] @ main])
        y = x @ main
        with jax.named_scope("adapters"):
            added = self.lora_a(x[:images]) @ columns(self.lora_b.kernel[...]) * self.scale
        return jnp.concatenate([y[:images] + added, y[images:]])


class InternLM2Layer(nnx.Module):
    """x += o_proj(attention(h)); x += mlp(post_attention_layernorm(x)).

    h is input_layernorm(x), or a mixer's output of it. `qkv_proj` is upstream's packed `wqkv`; `gate_proj`, `up_proj`
    and `down_proj` are its `w1`, `w3` and `w2`.
    """

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.config = config
        width, hidden = config.width, config.hidden
        self.input_layernorm = RMSNorm(width, config.rms_eps, config.dtype)
        self.qkv_proj = PLoRA(width, config.qkv_width, config, rngs)
        self.o_proj = PLoRA(width, width, config, rngs)
        self.post_attention_layernorm = RMSNorm(width, config.rms_eps, config.dtype)
        self.gate_proj = PLoRA(width, hidden, config, rngs)
        self.up_proj = PLoRA(width, hidden, config, rngs)
        self.down_proj = PLoRA(hidden, width, config, rngs)

    def _part(self, first: int, last: int) -> Callable[[Array], Array]:
        """Columns of the packed kernel: each key-value head has its R query heads, then its key, then its value."""
        config = self.config

        def columns(kernel: Float[Array, "D packed"]) -> Float[Array, "D part"]:
            packed = kernel.reshape(kernel.shape[0], config.kv_heads, -1, config.head_size)  # [D, G, R + 2, d]
            return packed[:, :, first:last].reshape(kernel.shape[0], -1)

        return columns

    def project(
        self, h: Float[Array, "T D"], positions: Int[Array, "T"], images: int
    ) -> tuple[Float[Array, "T H d"], KVCache]:
        """Rotated queries and keys, and values, of every row."""
        config = self.config
        packed = self.qkv_proj(h, images).reshape(h.shape[0], config.kv_heads, -1, config.head_size)  # [T, G, R + 2, d]
        query = packed[:, :, :-2].reshape(h.shape[0], config.heads, config.head_size)
        return self._rotate(query, positions), KVCache(self._rotate(packed[:, :, -2], positions), packed[:, :, -1])

    def project_last(
        self, h: Float[Array, "T D"], positions: Int[Array, "T"], images: int
    ) -> tuple[Float[Array, "1 H d"], KVCache]:
        """The last row's rotated queries; rotated keys, and values, of every row."""
        config = self.config
        shared = config.heads // config.kv_heads
        query = self.qkv_proj(h[-1:], 0, self._part(0, shared)).reshape(1, config.heads, config.head_size)
        packed = self.qkv_proj(h, images, self._part(shared, shared + 2))
        packed = packed.reshape(h.shape[0], config.kv_heads, 2, config.head_size)  # [T, G, 2, d]
        keys = self._rotate(packed[:, :, 0], positions)
        return self._rotate(query, positions[-1:]), KVCache(keys, packed[:, :, 1])

    def _rotate(self, x: Float[Array, "T heads d"], positions: Int[Array, "T"]) -> Float[Array, "T heads d"]:
        return rotate(x, positions, self.config.rope_theta)

    def attend_and_mlp(
        self,
        x: Float[Array, "T D"],
        query: Float[Array, "T H d"],
        cache: KVCache,
        mask: Bool[Array, "T S"],
        images: int,
    ) -> Float[Array, "T D"]:
        """The layer's output, given the queries of its rows and all keys and values that they attend to."""
        # Image rows come in order; text rows, whose positions may lie before or after them, follow in memory.
        with jax.named_scope("attention"):
            attended = attend_causal(query, cache.keys, cache.values, mask, images, self.config.attention_block)
        x = x + self.o_proj(join_heads(attended), images)
        h = self.post_attention_layernorm(x)
        return x + self.down_proj(jax.nn.silu(self.gate_proj(h, images)) * self.up_proj(h, images), images)
