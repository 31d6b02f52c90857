"""Images to tokens of the language model (CLIP tower, projector), and the resampler of auxiliary inputs.

The tower runs twice, on the image and on the color map of its panoptic segments. The map's colors lie in [0, 1], but
they are normalized with the constants meant for 0..255, which maps them to a band 0.015 wide: the weights were trained
on that.

Axis letters: N image tokens, W width of the tower, D width, S auxiliary tokens, Z latents, I inner width of attention.
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
SEGMENTS = 134  # rows of the color table: segment numbers 0 (none) to 133
EPS = 1e-5  # of the resampler's norms


def color_table() -> Float[np.ndarray, "134 3"]:
    """The colors of PASCAL VOC, in [0, 1]; the row is the segment's number, not its class.

    Bit j of a number's three lowest bits sets the highest bit of channel j, the next three bits the next lower bit of
    each channel, and so on.
    """
    numbers = np.arange(SEGMENTS)
    colors = np.zeros((SEGMENTS, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((numbers >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors / 255.0


def normalize(values: Float[np.ndarray, "*any 3"], dtype: str) -> Float[np.ndarray, "*any 3"]:
    """(x - 255 mean) / (255 std), for values meant to lie in 0..255, computed in `dtype` throughout.

    This runs on the host, for tables of the few possible values: XLA's division is not rounded exactly, and the tower
    amplifies the difference.
    """
    scalar = jnp.dtype(dtype).type
    mean, std = (np.asarray(part, scalar) * scalar(255) for part in (MEAN, STD))
    return (np.asarray(values, scalar) - mean) / std


class MoAIVisionEncoder(nnx.Module):
    """The CLIP tower and the projector `vision_proj`: Linear, exact GELU, Linear."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.config = config
        self.tower = ClipVit(config.vision, rngs)
        self.fc1 = linear(config.vision_width, config.width, rngs, config.dtype)
        self.fc2 = linear(config.width, config.width, rngs, config.dtype)

    def encode_pixels(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N D"]:
        """Tokens of normalized pixels: the last block's patches, without CLIP's last norm, projected."""
        with jax.named_scope("vision_tower"):
            patches = self.tower(pixels)
        return self.project(patches)

    @jax.named_scope("vision_projector")
    def project(self, patches: Float[Array, "N W"]) -> Float[Array, "N D"]:
        return self.fc2(jax.nn.gelu(self.fc1(patches), approximate=False))

    def encode_image(self, image: UInt8[Array, "size size 3"]) -> Float[Array, "N D"]:
        """Tokens of an image."""
        values = np.broadcast_to(np.arange(256)[:, None], (256, 3))
        table = jnp.asarray(normalize(values, self.config.image_dtype))  # [256, 3]
        return self.encode_pixels(table[image, jnp.arange(3)[None, None]])

    def encode_segments(self, segments: UInt8[Array, "size size"]) -> Float[Array, "N D"]:
        """Tokens of the color map of segment numbers; colors are rounded to float16 first, as upstream does."""
        table = jnp.asarray(normalize(color_table().astype(np.float16), self.config.image_dtype))  # [134, 3]
        return self.encode_pixels(table[segments])


class ResamplerBlock(nnx.Module):
    """One resampler block: cross-attention of the latents to auxiliary tokens and to themselves, then an MLP."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.heads = config.compressor_heads
        inner = self.heads * config.compressor_head_size
        self.norm_media = LayerNorm(width, EPS, dtype)
        self.norm_latents = LayerNorm(width, EPS, dtype)
        self.q_proj = linear(width, inner, rngs, dtype, bias=False)
        self.kv_proj = linear(width, 2 * inner, rngs, dtype, bias=False)
        self.o_proj = linear(inner, width, rngs, dtype, bias=False)
        self.mlp_norm = LayerNorm(width, EPS, dtype)
        self.fc1 = linear(width, config.compressor_ff_mult * width, rngs, dtype, bias=False)
        self.fc2 = linear(config.compressor_ff_mult * width, width, rngs, dtype, bias=False)

    def __call__(
        self, latents: Float[Array, "Z D"], media: Float[Array, "S D"], mask: Bool[Array, "1 S+Z"]
    ) -> Float[Array, "Z D"]:
        h = self.norm_latents(latents)
        source = jnp.concatenate([self.norm_media(media), h])  # [S + Z, D]
        keys, values = jnp.split(self.kv_proj(source), 2, axis=-1)  # [S + Z, I] each
        query, keys, values = (split_heads(part, self.heads) for part in (self.q_proj(h), keys, values))
        latents = latents + self.o_proj(join_heads(attend(query, keys, values, mask)))
        return latents + self.fc2(jax.nn.gelu(self.fc1(self.mlp_norm(latents)), approximate=False))


class Compressor(nnx.Module):
    """A Perceiver resampler: learned latents and `compressor_depth` resampler blocks."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.latents = normal(rngs, (config.compressor_latents, config.width), config.dtype)
        self.layers = stack(lambda rngs: ResamplerBlock(config, rngs), config.compressor_depth, rngs)
        self.norm = LayerNorm(config.width, EPS, config.dtype)

    @jax.named_scope("compressor")
    def __call__(self, media: Float[Array, "S D"], mask: Bool[Array, "S"]) -> Float[Array, "Z D"]:
        """Compress auxiliary tokens into the latents.

        Args:
            media: auxiliary tokens.
            mask: tokens that take part. Upstream includes the padding of a batch; a mask of ones does the same.
        """
        latents = self.latents[...]
        visible = jnp.concatenate([mask, jnp.ones(latents.shape[0], bool)])[None]  # [1, S + Z]
        latents, _ = scan_layers(self.layers, lambda layer, x, _: (layer(x, media, visible), None), latents)
        return self.norm(latents)
