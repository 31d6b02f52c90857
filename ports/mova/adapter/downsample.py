"""From the mixed map to image tokens of the language model: two convolutional stages around a 2 x 2 mean, a projector.

Axis letters: G side of the map, N = G * G tokens, I = N / 4 image tokens, D width, O width of the language model.
One sample.
"""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ports.common.checkpoint.mapping import Leaf, convolution, linear_leaves, norm_leaves
from ports.common.layers.linear import LayerNorm, linear
from ports.mova.config import AdapterConfig
from ports.mova.layers import pool
from ports.mova.towers.patches import conv


class BottleneckStage(nnx.Module):
    """RegNet's bottleneck: 1 x 1, depthwise 3 x 3, squeeze and excitation, 1 x 1; norms over the channels.

    The norms have eps 1e-5: upstream sets 1e-6 for its own norm, but timm replaces that norm.
    """

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.conv1 = linear(width, width, rngs, dtype, bias=False)
        self.norm1 = LayerNorm(width, config.eps, dtype)
        self.conv2 = conv(width, width, 3, rngs, dtype, groups=width)
        self.norm2 = LayerNorm(width, config.eps, dtype)
        self.squeeze = linear(width, config.squeeze, rngs, dtype)
        self.excite = linear(config.squeeze, width, rngs, dtype)
        self.conv3 = linear(width, width, rngs, dtype, bias=False)
        self.norm3 = LayerNorm(width, config.eps, dtype)

    def __call__(self, x: Float[Array, "G G D"]) -> Float[Array, "G G D"]:
        h = jax.nn.silu(self.norm1(self.conv1(x)))
        h = jax.nn.silu(self.norm2(self.conv2(h)))
        gate = jax.nn.sigmoid(self.excite(jax.nn.silu(self.squeeze(h.mean(axis=(0, 1))))))  # [D]
        return x + self.norm3(self.conv3(h * gate[None, None]))


class Downsample(nnx.Module):
    """Stage, 2 x 2 mean, stage, then two linear maps with a GELU between them."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        self.config = config
        self.stage1, self.stage2 = BottleneckStage(config, rngs), BottleneckStage(config, rngs)
        self.fc1 = linear(config.width, config.out, rngs, config.dtype)
        self.fc2 = linear(config.out, config.out, rngs, config.dtype)

    def shrink(self, x: Float[Array, "N D"]) -> Float[Array, "I D"]:
        """The map at half its side, before the projector."""
        grid, width = self.config.grid, self.config.width
        x = self.stage1(x.reshape(grid, grid, width)).reshape(-1, width)
        half = grid // 2
        return self.stage2(pool(x, half).reshape(half, half, width)).reshape(-1, width)

    def __call__(self, x: Float[Array, "N D"]) -> Float[Array, "I O"]:
        return self.fc2(jax.nn.gelu(self.fc1(self.shrink(x)), approximate=False))


def pointwise(tensor: np.ndarray) -> np.ndarray:
    """PyTorch's weight [out, in, 1, 1] of a 1 x 1 convolution as a kernel [in, out]."""
    return tensor[:, :, 0, 0].T


def downsample_leaves(ours: str, theirs: str) -> dict[str, Leaf]:
    """Parameters of `Downsample`, from `downsample.{0,2}.b1` (whose norms are called bn) and `mlp.{0,2}`."""
    leaves = {
        **linear_leaves(f"{ours}/fc1", f"{theirs}mlp.0"),
        **linear_leaves(f"{ours}/fc2", f"{theirs}mlp.2"),
    }
    for stage, number in (("stage1", 0), ("stage2", 2)):
        path, block = f"{ours}/{stage}", f"{theirs}downsample.{number}.b1"
        leaves |= {
            f"{path}/conv1/kernel": Leaf((f"{block}.conv1.conv.weight",), pointwise),
            f"{path}/conv2/kernel": Leaf((f"{block}.conv2.conv.weight",), convolution),
            f"{path}/conv3/kernel": Leaf((f"{block}.conv3.conv.weight",), pointwise),
        }
        for norm in ("1", "2", "3"):
            leaves |= norm_leaves(f"{path}/norm{norm}", f"{block}.conv{norm}.bn")
        for part, name in (("squeeze", "fc1"), ("excite", "fc2")):
            leaves[f"{path}/{part}/kernel"] = Leaf((f"{block}.se.{name}.weight",), pointwise)
            leaves[f"{path}/{part}/bias"] = Leaf((f"{block}.se.{name}.bias",))
    return leaves
