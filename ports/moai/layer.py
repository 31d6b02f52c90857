"""A decoder layer of InternLM2: packed queries, keys and values, and partial LoRA on the image tokens' rows.

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
            self.down = linear(inside, config.plora_rank, rngs, config.dtype, bias=False)
            self.up = linear(config.plora_rank, outside, rngs, config.dtype, bias=False)

    def __call__(
        self, x: Float[Array, "T inside"], images: int, columns: Callable[[Array], Array] = lambda kernel: kernel
    ) -> Float[Array, "T outside"]:
        """The product, the first `images` rows being image tokens; `columns` picks a part of the output."""
        main = columns(self.main.kernel[...])
        if not images:
            return x @ main
        if self.merged:
            return jnp.concatenate([x[:images] @ columns(self.image.kernel[...]), x[images:] @ main])
        y = x @ main
        added = self.down(x[:images]) @ columns(self.up.kernel[...]) * self.scale
        return jnp.concatenate([y[:images] + added, y[images:]])


class Layer(nnx.Module):
    """x += out(attention(h)), h = norm1(x), or what a mixer makes of it; x += feed_forward(norm2(x))."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.config = config
        width, hidden = config.width, config.hidden
        self.norm1 = RMSNorm(width, config.rms_eps, config.dtype)
        self.qkv = PLoRA(width, config.qkv_width, config, rngs)
        self.out = PLoRA(width, width, config, rngs)
        self.norm2 = RMSNorm(width, config.rms_eps, config.dtype)
        self.gate = PLoRA(width, hidden, config, rngs)
        self.up = PLoRA(width, hidden, config, rngs)
        self.down = PLoRA(hidden, width, config, rngs)

    def _part(self, first: int, last: int) -> Callable[[Array], Array]:
        """Columns of the packed kernel: each key-value head has its R query heads, then its key, then its value."""
        config = self.config

        def columns(kernel: Float[Array, "D packed"]) -> Float[Array, "D some"]:
            packed = kernel.reshape(kernel.shape[0], config.kv_heads, -1, config.head_size)  # [D, G, R + 2, d]
            return packed[:, :, first:last].reshape(kernel.shape[0], -1)

        return columns

    def project(
        self, h: Float[Array, "T D"], positions: Int[Array, "T"], images: int
    ) -> tuple[Float[Array, "T H d"], KVCache]:
        """Rotated queries and keys, and values, of every row."""
        config = self.config
        packed = self.qkv(h, images).reshape(h.shape[0], config.kv_heads, -1, config.head_size)  # [T, G, R + 2, d]
        query = packed[:, :, :-2].reshape(h.shape[0], config.heads, config.head_size)
        return self._rotate(query, positions), KVCache(self._rotate(packed[:, :, -2], positions), packed[:, :, -1])

    def project_last(
        self, h: Float[Array, "T D"], positions: Int[Array, "T"], images: int
    ) -> tuple[Float[Array, "1 H d"], KVCache]:
        """As `project`, but with the last row's queries alone."""
        config = self.config
        shared = config.heads // config.kv_heads
        query = self.qkv(h[-1:], 0, self._part(0, shared)).reshape(1, config.heads, config.head_size)
        packed = self.qkv(h, images, self._part(shared, shared + 2))
        packed = packed.reshape(h.shape[0], config.kv_heads, 2, config.head_size)  # [T, G, 2, d]
        keys = self._rotate(packed[:, :, 0], positions)
        return self._rotate(query, positions[-1:]), KVCache(keys, packed[:, :, 1])

    def _rotate(self, x: Float[Array, "T heads d"], positions: Int[Array, "T"]) -> Float[Array, "T heads d"]:
        return rotate(x, positions, self.config.rope_theta)

    def finish(
        self,
        x: Float[Array, "T D"],
        query: Float[Array, "T H d"],
        seen: KVCache,
        mask: Bool[Array, "T S"],
        images: int,
    ) -> Float[Array, "T D"]:
        """The layer's output, given everything that its rows attend to."""
        # Image rows come in order; words, which may stand before or behind them, follow in memory.
        read = attend_causal(query, seen.keys, seen.values, mask, images, self.config.attention_block)
        x = x + self.out(join_heads(read), images)
        h = self.norm2(x)
        return x + self.down(jax.nn.silu(self.gate(h, images)) * self.up(h, images), images)
