"""Qwen2 read in both directions, and its two ways to one vector.

Axis letters: T tokens, D width, M embedding size, V vocabulary. One text.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.decoder import Decoder
from ports.common.linear import linear, normal
from ports.common.text_embedder import last_token, mean_pool, unit
from ports.qwen2_embed.config import Qwen2EmbedConfig


class Qwen2Embed(nnx.Module):
    """Every real token sees every real token. Positions are counted over the padded width; only differences matter."""

    def __init__(self, config: Qwen2EmbedConfig, rngs: nnx.Rngs):
        self.words = normal(rngs, (config.vocab_size, config.width), config.dtype)
        self.decoder = Decoder(config.decoder, rngs)
        self.head = None if config.head is None else linear(config.width, config.head, rngs)  # float32, as the mean is

    def states(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"]) -> Float[Array, "T D"]:
        """States after the final norm."""
        return self.decoder(self.words[...][tokens], mask[None], jnp.arange(tokens.shape[0]))[0]

    def pool(self, states: Float[Array, "T D"], mask: Bool[Array, "T"], pooled: Bool[Array, "T"]) -> Float[Array, "M"]:
        """stella: the dense layer over the mean. gte: the last token's state. Not normalised yet."""
        return last_token(states, mask) if self.head is None else self.head(mean_pool(states, pooled))

    def __call__(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"], pooled: Bool[Array, "T"]) -> Float[Array, "M"]:
        return unit(self.pool(self.states(tokens, mask), mask, pooled))
