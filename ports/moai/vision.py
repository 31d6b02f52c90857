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
from jaxtyping import Array, Float, UInt8

from ports.common.clip_vit import ClipVit
from ports.common.linear import linear
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
