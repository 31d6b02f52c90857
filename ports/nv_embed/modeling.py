"""Mistral read in both directions, then latent attention: every token asks 512 learned latents.

Axis letters: T tokens, D width, N latents, H heads, d head width. One text.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.attention import attend, join_heads, split_heads
from ports.common.decoder import Decoder
from ports.common.linear import linear, normal
from ports.common.norms import LayerNorm
from ports.common.text_embedder import mean_pool, unit
from ports.nv_embed.config import NVEmbedConfig


class LatentAttention(nnx.Module):
    """x = h + out(attention(norm(h) to the latents)); x + down(u * gelu(g)) with (u, g) = up(norm(x))."""

    def __init__(self, config: NVEmbedConfig, rngs: nnx.Rngs):
        inner, width, dtype = config.cross_heads * config.cross_width, config.width, config.dtype
        self.heads = config.cross_heads
        self.latents = normal(rngs, (config.latents, config.latent_width), dtype)
        self.norm = LayerNorm(width, config.norm_eps, dtype)
        self.latent_norm = LayerNorm(config.latent_width, config.norm_eps, dtype)
        self.query = linear(width, inner, rngs, dtype, bias=False)
        self.key_value = linear(config.latent_width, 2 * inner, rngs, dtype, bias=False)
        self.out = linear(inner, width, rngs, dtype, bias=False)
        self.feed_norm = LayerNorm(width, config.norm_eps, dtype)
        self.up = linear(width, 2 * config.multiple * width, rngs, dtype)
        self.down = linear(config.multiple * width, width, rngs, dtype)

    def __call__(self, h: Float[Array, "T D"]) -> Float[Array, "T D"]:
        keys, values = jnp.split(self.key_value(self.latent_norm(self.latents[...])), 2, axis=-1)  # [N, H d]
        query, keys, values = (split_heads(part, self.heads) for part in (self.query(self.norm(h)), keys, values))
        x = h + self.out(join_heads(attend(query, keys, values)))
        value, gate = jnp.split(self.up(self.feed_norm(x)), 2, axis=-1)
        return x + self.down(value * jax.nn.gelu(gate, approximate=False))


class NVEmbed(nnx.Module):
    """One text; the beginning of the instruction is left out of the mean."""

    def __init__(self, config: NVEmbedConfig, rngs: nnx.Rngs):
        self.words = normal(rngs, (config.vocab_size, config.width), config.dtype)
        self.decoder = Decoder(config.decoder, rngs)
        self.latent = LatentAttention(config, rngs)

    def states(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"]) -> Float[Array, "T D"]:
        """The decoder's states after its final norm."""
        return self.decoder(self.words[...][tokens], mask[None], jnp.arange(tokens.shape[0]))[0]

    def __call__(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"], pooled: Bool[Array, "T"]) -> Float[Array, "D"]:
        return unit(mean_pool(self.latent(self.states(tokens, mask)), pooled))
