"""The compressor: a Perceiver resampler that reads the auxiliary tokens into a fixed number of latents.

It knows no positions: the order of the auxiliary tokens changes nothing.

Axis letters: S auxiliary tokens, Z latents, D width, I inner width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ports.common.attention import attend, join_heads, split_heads
from ports.common.linear import linear, normal
from ports.common.norms import LayerNorm
from ports.common.stack import scan_layers, stack
from ports.moai.config import MoAIConfig

EPS = 1e-5


class Reader(nnx.Module):
    """One round: the latents read the auxiliary tokens and each other, then think."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.heads = config.compressor_heads
        inner = self.heads * config.compressor_head_size
        self.norm_media = LayerNorm(width, EPS, dtype)
        self.norm_latents = LayerNorm(width, EPS, dtype)
        self.query = linear(width, inner, rngs, dtype, bias=False)
        self.key_value = linear(width, 2 * inner, rngs, dtype, bias=False)
        self.out = linear(inner, width, rngs, dtype, bias=False)
        self.norm = LayerNorm(width, EPS, dtype)
        self.up = linear(width, config.compressor_ff_mult * width, rngs, dtype, bias=False)
        self.down = linear(config.compressor_ff_mult * width, width, rngs, dtype, bias=False)

    def __call__(
        self, latents: Float[Array, "Z D"], media: Float[Array, "S D"], mask: Bool[Array, "1 S+Z"]
    ) -> Float[Array, "Z D"]:
        own = self.norm_latents(latents)
        seen = jnp.concatenate([self.norm_media(media), own])  # [S + Z, D]
        keys, values = jnp.split(self.key_value(seen), 2, axis=-1)  # [S + Z, I] each
        query, keys, values = (split_heads(part, self.heads) for part in (self.query(own), keys, values))
        latents = latents + self.out(join_heads(attend(query, keys, values, mask)))
        return latents + self.down(jax.nn.gelu(self.up(self.norm(latents)), approximate=False))


class Compressor(nnx.Module):
    """Latents that have read everything, `depth` times."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.latents = normal(rngs, (config.compressor_latents, config.width), config.dtype)
        self.layers = stack(lambda rngs: Reader(config, rngs), config.compressor_depth, rngs)
        self.norm = LayerNorm(config.width, EPS, config.dtype)

    def __call__(self, media: Float[Array, "S D"], mask: Bool[Array, "S"]) -> Float[Array, "Z D"]:
        """Compress.

        Args:
            media: auxiliary tokens.
            mask: those that are read. Upstream reads the padding of a batch too; a mask of ones does the same.
        """
        latents = self.latents[...]
        visible = jnp.concatenate([mask, jnp.ones(latents.shape[0], bool)])[None]  # [1, S + Z]
        latents, _ = scan_layers(self.layers, lambda layer, x, _: (layer(x, media, visible), None), latents)
        return self.norm(latents)
