"""Vary, expert 1: SAM's encoder at ViT-B's size and a convolution that halves the map and doubles the channels.

Axis letters: N tokens, C channels. One image, channels last.
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from ports.common.mapping import Leaf, convolution
from ports.mova.config import SamConfig
from ports.mova.towers.patches import conv
from ports.mova.towers.sam import Sam, sam_leaves


class Vary(nnx.Module):
    """`halve` is upstream's `net_2`; its `net_3` is not part of MoVA."""

    def __init__(self, config: SamConfig, rngs: nnx.Rngs):
        self.encoder = Sam(config, rngs)
        self.halve = conv(config.out, 2 * config.out, 3, rngs, config.dtype, stride=2)

    def __call__(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N C"]:
        """Tokens, row by row."""
        x = self.halve(self.encoder.see(pixels))
        return x.reshape(-1, x.shape[-1])


def vary_leaves(ours: str, theirs: str, config: SamConfig) -> dict[str, Leaf]:
    """Parameters of `Vary` at path `ours`, from an encoder at prefix `theirs`, which ends in its separator."""
    leaves = sam_leaves(f"{ours}/encoder", theirs, config)
    return leaves | {f"{ours}/halve/kernel": Leaf((f"{theirs}net_2.weight",), convolution)}
