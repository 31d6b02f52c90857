"""What the towers share: patches, fused projections, windows of a map, the neck, runs of equal blocks.

Axis letters: G places along a side of the map, S along a side of a window, N tokens, n windows, C channels, D width.
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
from ports.common.layers.attention import split_heads
from ports.common.layers.linear import LayerNorm, linear

Run = tuple[bool, tuple[int, ...]]  # whether the blocks attend within windows, and their numbers


def patch_embedding(size: int, width: int, rngs: nnx.Rngs, dtype: str) -> nnx.Conv:
    """Squares of `size` x `size` pixels to tokens, with a bias."""
    return conv(3, width, size, rngs, dtype, stride=size, padding=0, bias=True)


def conv(
    inside: int, outside: int, size: int, rngs: nnx.Rngs, dtype: str, *, stride: int = 1, padding: int | None = None,
    bias: bool = False, groups: int = 1,
) -> nnx.Conv:  # fmt: skip
    """A square convolution; where no padding is given, the map keeps its size at stride 1."""
    around = size // 2 if padding is None else padding
    return nnx.Conv(
        inside, outside, (size, size), strides=stride, padding=((around, around), (around, around)), use_bias=bias,
        feature_group_count=groups, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), rngs=rngs,
    )  # fmt: skip


class FusedQKV(nnx.Module):
    """Queries, keys and values from one linear map, in this order along its output."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs, dtype: str):
        self.heads = heads
        self.qkv = linear(width, 3 * width, rngs, dtype)

    def __call__(self, x: Float[Array, "N D"]) -> list[Float[Array, "N H d"]]:
        return [split_heads(part, self.heads) for part in jnp.split(self.qkv(x), 3, axis=-1)]


def to_windows(x: Float[Array, "G G D"], window: int) -> Float[Array, "n S*S D"]:
    """Cut a map into windows, row by row; zeros are added at the bottom and right where it does not divide."""
    padding = -x.shape[0] % window
    padded = jnp.pad(x, ((0, padding), (0, padding), (0, 0)))
    number = padded.shape[0] // window
    cut = padded.reshape(number, window, number, window, -1).swapaxes(1, 2)
    return cut.reshape(number**2, window**2, -1)


def from_windows(x: Float[Array, "n S*S D"], grid: int, window: int) -> Float[Array, "G G D"]:
    """The inverse of `to_windows`: what was added is cut off."""
    number = -(-grid // window)
    whole = x.reshape(number, number, window, window, -1).swapaxes(1, 2)
    return whole.reshape(number * window, number * window, -1)[:grid, :grid]


def over_map(
    attention: Callable[[Float[Array, "N D"]], Float[Array, "N D"]], x: Float[Array, "G G D"], window: int | None
) -> Float[Array, "G G D"]:
    """Attention within each window, or over the whole map where there is none."""
    grid = x.shape[0]
    if window is None:
        return attention(x.reshape(grid * grid, -1)).reshape(x.shape)
    return from_windows(jax.vmap(attention)(to_windows(x, window)), grid, window)


def runs(layers: int, global_blocks: tuple[int, ...]) -> list[Run]:
    """Blocks 0 .. layers - 1 as runs of one kind, each of which is a scanned stack."""
    kinds = groupby(range(layers), key=lambda block: block not in global_blocks)
    return [(windowed, tuple(blocks)) for windowed, blocks in kinds]


class Neck(nnx.Module):
    """1 x 1 convolution, norm, (gelu,) 3 x 3 convolution, norm; norms over the channels."""

    def __init__(self, width: int, out: int, eps: float, rngs: nnx.Rngs, dtype: str, *, gelu: bool):
        self.gelu = gelu
        self.reduce = conv(width, out, 1, rngs, dtype)
        self.norm1 = LayerNorm(out, eps, dtype)
        self.smooth = conv(out, out, 3, rngs, dtype)
        self.norm2 = LayerNorm(out, eps, dtype)

    def __call__(self, x: Float[Array, "G G D"]) -> Float[Array, "G G C"]:
        x = self.norm1(self.reduce(x))
        if self.gelu:
            x = jax.nn.gelu(x, approximate=False)
        return self.norm2(self.smooth(x))


def neck_leaves(ours: str, theirs: str, *, gelu: bool) -> dict[str, Leaf]:
    """Parameters of `Neck`, in upstream an nn.Sequential in which the gelu takes a number of its own."""
    convolution2, norm2 = (3, 4) if gelu else (2, 3)
    return {
        f"{ours}/reduce/kernel": Leaf((f"{theirs}.0.weight",), convolution),
        **norm_leaves(f"{ours}/norm1", f"{theirs}.1"),
        f"{ours}/smooth/kernel": Leaf((f"{theirs}.{convolution2}.weight",), convolution),
        **norm_leaves(f"{ours}/norm2", f"{theirs}.{norm2}"),
    }


def first(tensor: np.ndarray) -> np.ndarray:
    """The tensor without its leading axis of length one."""
    return tensor[0]
