"""Images to tokens of the language model: normalisation, the CLIP tower, the projector.

The tower runs twice, on the image and on the colour map of its panoptic segments. The map's colours lie in [0, 1] and
go through the normalisation meant for 0..255 all the same, which squeezes them into a band 0.015 wide: the weights were
trained on that.

Axis letters: N image tokens, D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from ports.common.layers.attention import attend, join_heads, split_heads
from ports.common.layers.clip_vit import ClipVit
from ports.common.layers.linear import LayerNorm, linear, normal
from ports.common.layers.stack import scan_layers, stack
from ports.moai.config import MoAIConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SEGMENTS = 134  # rows of the colour table: segment numbers 0 (none) to 133


def colour_table() -> Float[np.ndarray, "134 3"]:
    """The colours of PASCAL VOC, in [0, 1]; the row is the segment's number, not its class.

    Bit j of a number's three lowest bits goes to channel j, the next three to the next lower bit of each colour.
    """
    numbers = np.arange(SEGMENTS)
    colours = np.zeros((SEGMENTS, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours / 255.0


def normalise(values: Float[np.ndarray, "*any 3"], dtype: str) -> Float[np.ndarray, "*any 3"]:
    """(x - 255 mean) / (255 std), for values meant to lie in 0..255, everything in `dtype`, the products too.

    On the host, for tables of the few values there are: XLA's division is not rounded exactly, and the tower passes the
    difference on.
    """
    kind = jnp.dtype(dtype).type
    mean, std = (np.asarray(part, kind) * kind(255) for part in (MEAN, STD))
    return (np.asarray(values, kind) - mean) / std


class Vision(nnx.Module):
    """Tower and projector: Linear, exact GELU, Linear."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.config = config
        self.tower = ClipVit(config.vision, rngs)
        self.up = linear(config.vision_width, config.width, rngs, config.dtype)
        self.out = linear(config.width, config.width, rngs, config.dtype)

    def see(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N D"]:
        """Tokens of normalised pixels: the last block's patches, without CLIP's last norm, projected."""
        return self.project(self.tower(pixels))

    def project(self, patches: Float[Array, "N W"]) -> Float[Array, "N D"]:
        return self.out(jax.nn.gelu(self.up(patches), approximate=False))

    def see_image(self, image: UInt8[Array, "size size 3"]) -> Float[Array, "N D"]:
        values = np.broadcast_to(np.arange(256)[:, None], (256, 3))
        table = jnp.asarray(normalise(values, self.config.image_dtype))  # [256, 3]
        return self.see(table[image, jnp.arange(3)[None, None]])

    def see_segments(self, segments: UInt8[Array, "size size"]) -> Float[Array, "N D"]:
        """Tokens of the colour map, rounded to float16 first as upstream does."""
        table = jnp.asarray(normalise(colour_table().astype(np.float16), self.config.image_dtype))  # [134, 3]
        return self.see(table[segments])


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
