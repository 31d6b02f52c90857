"""Layers that the towers share: patches, fused projections, windows of a map, the neck, runs of equal blocks.

Axis letters: G side of the map, S side of a window, N tokens, n windows, H heads, d head width, C channels, D width.
One image, channels last.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ports.common.checkpoint.mapping import Leaf, convolution, norm_leaves
from ports.common.layers.attention import split_qkv
from ports.common.layers.linear import LayerNorm, linear

BlockRun = tuple[bool, tuple[int, ...]]  # whether the blocks attend within windows, and their numbers


def patch_embedding(size: int, width: int, rngs: nnx.Rngs, dtype: str) -> nnx.Conv:
    """Squares of `size` x `size` pixels to tokens, with a bias."""
    return conv(3, width, size, rngs, dtype, stride=size, padding=0, bias=True)


def conv(
    inside: int, outside: int, size: int, rngs: nnx.Rngs, dtype: str, *, stride: int = 1, padding: int | None = None,
    bias: bool = False, groups: int = 1,
) -> nnx.Conv:  # fmt: skip
    """A square convolution; without `padding` the map keeps its size at stride 1."""
    width = size // 2 if padding is None else padding
    return nnx.Conv(
        inside, outside, (size, size), strides=stride, padding=((width, width), (width, width)), use_bias=bias,
        feature_group_count=groups, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), rngs=rngs,
    )  # fmt: skip


class FusedQKV(nnx.Module):
    """Queries, keys and values from one linear map, in this order along its output."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs, dtype: str):
        self.heads = heads
        self.linear = linear(width, 3 * width, rngs, dtype)

    def __call__(self, x: Float[Array, "N D"]) -> list[Float[Array, "N H d"]]:
        return split_qkv(self.linear(x), self.heads)


def to_windows(x: Float[Array, "G G D"], window: int) -> Float[Array, "n S*S D"]:
    """Cut a map into windows, row by row; the bottom and right are padded with zeros to whole windows."""
    padding = -x.shape[0] % window
    padded = jnp.pad(x, ((0, padding), (0, padding), (0, 0)))
    number = padded.shape[0] // window
    cut = padded.reshape(number, window, number, window, -1).swapaxes(1, 2)
    return cut.reshape(number**2, window**2, -1)


def from_windows(x: Float[Array, "n S*S D"], grid: int, window: int) -> Float[Array, "G G D"]:
    """The inverse of `to_windows`; the padding is cut off."""
    number = -(-grid // window)
    whole = x.reshape(number, number, window, window, -1).swapaxes(1, 2)
    return whole.reshape(number * window, number * window, -1)[:grid, :grid]


def attend_in_windows(
    attention: Callable[[Float[Array, "N D"]], Float[Array, "N D"]], x: Float[Array, "G G D"], window: int | None
) -> Float[Array, "G G D"]:
    """`attention` within each window of side `window`, or over the whole map for `None`."""
    grid = x.shape[0]
    if window is None:
        return attention(x.reshape(grid * grid, -1)).reshape(x.shape)
    return from_windows(jax.vmap(attention)(to_windows(x, window)), grid, window)


def block_runs(layers: int, global_blocks: tuple[int, ...]) -> list[BlockRun]:
    """Blocks 0 .. layers - 1 as runs of one kind; each run becomes a scanned stack."""
    kinds = groupby(range(layers), key=lambda block: block not in global_blocks)
    return [(windowed, tuple(blocks)) for windowed, blocks in kinds]


class Neck(nnx.Module):
    """1 x 1 convolution, norm, (GELU,) 3 x 3 convolution, norm; norms over the channels."""

    def __init__(self, width: int, out: int, eps: float, rngs: nnx.Rngs, dtype: str, *, gelu: bool):
        self.gelu = gelu
        self.conv1 = conv(width, out, 1, rngs, dtype)
        self.norm1 = LayerNorm(out, eps, dtype)
        self.conv2 = conv(out, out, 3, rngs, dtype)
        self.norm2 = LayerNorm(out, eps, dtype)

    def __call__(self, x: Float[Array, "G G D"]) -> Float[Array, "G G C"]:
        x = self.norm1(self.conv1(x))
        if self.gelu:
            x = jax.nn.gelu(x, approximate=False)
        return self.norm2(self.conv2(x))


def neck_leaves(ours: str, theirs: str, *, gelu: bool) -> dict[str, Leaf]:
    """Parameters of `Neck`: in upstream an nn.Sequential, whose numbers shift by one after the GELU."""
    conv2, norm2 = (3, 4) if gelu else (2, 3)
    return {
        f"{ours}/conv1/kernel": Leaf((f"{theirs}.0.weight",), convolution),
        **norm_leaves(f"{ours}/norm1", f"{theirs}.1"),
        f"{ours}/conv2/kernel": Leaf((f"{theirs}.{conv2}.weight",), convolution),
        **norm_leaves(f"{ours}/norm2", f"{theirs}.{norm2}"),
    }


def drop_leading_axis(tensor: np.ndarray) -> np.ndarray:
    """The tensor without its leading axis of length one."""
    return tensor[0]
