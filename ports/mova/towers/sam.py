"""SAM's image encoder, expert 6, and Vary, expert 1, which adds a convolution of stride 2.

Windows with decomposed relative positions, four global blocks, a neck.

Axis letters: G side of the map, S side of the square that attention covers, N = S * S tokens, H heads, d head width,
D width, C channels. One image, channels last.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ports.common.checkpoint.mapping import Leaf, convolution, layer_names, linear_leaves, norm_leaves
from ports.common.layers.attention import attend, join_heads
from ports.common.layers.linear import LayerNorm, linear, normal
from ports.common.layers.stack import scan_layers, stack
from ports.mova.config import SamConfig
from ports.mova.towers.patches import (
    FusedQKV,
    Neck,
    attend_in_windows,
    block_runs,
    conv,
    drop_leading_axis,
    neck_leaves,
    patch_embedding,
)


class SamAttention(nnx.Module):
    """softmax(q k^T / sqrt(d) + q.Rh[y - y'] + q.Rw[x - x']) v over a square of S x S tokens."""

    def __init__(self, config: SamConfig, side: int, rngs: nnx.Rngs):
        width = config.width // config.heads
        self.side = side
        self.qkv = FusedQKV(config.width, config.heads, rngs, config.dtype)
        self.rel_pos_h = normal(rngs, (2 * side - 1, width), config.dtype)
        self.rel_pos_w = normal(rngs, (2 * side - 1, width), config.dtype)
        self.o_proj = linear(config.width, config.width, rngs, config.dtype)

    def __call__(self, x: Float[Array, "N D"]) -> Float[Array, "N D"]:
        query, keys, values = self.qkv(x)
        return self.o_proj(join_heads(attend(query, keys, values, bias=self._bias(query))))

    def _bias(self, query: Float[Array, "N H d"]) -> Float[Array, "H N N"]:
        """Relative positions along both axes, from the unscaled query (without the factor 1 / sqrt(d))."""
        side = self.side
        distance = np.arange(side)[:, None] - np.arange(side)[None] + side - 1  # [S, S]
        square = query.reshape(side, side, *query.shape[1:])
        vertical = jnp.einsum("yxhd,ykd->hyxk", square, self.rel_pos_h[...][distance])
        horizontal = jnp.einsum("yxhd,xkd->hyxk", square, self.rel_pos_w[...][distance])
        total = vertical[..., :, None] + horizontal[..., None, :]  # [H, S, S, S, S]
        return total.reshape(query.shape[1], side * side, side * side)


class SamBlock(nnx.Module):
    """A pre-norm block. The padding of the map to whole windows takes part in attention: zeros after the norm."""

    def __init__(self, config: SamConfig, windowed: bool, rngs: nnx.Rngs):
        self.window = config.window if windowed else None
        self.norm1 = LayerNorm(config.width, config.eps, config.dtype)
        self.attention = SamAttention(config, self.window or config.grid, rngs)
        self.norm2 = LayerNorm(config.width, config.eps, config.dtype)
        self.fc1 = linear(config.width, config.hidden, rngs, config.dtype)
        self.fc2 = linear(config.hidden, config.width, rngs, config.dtype)

    def __call__(self, x: Float[Array, "G G D"]) -> Float[Array, "G G D"]:
        x = x + attend_in_windows(self.attention, self.norm1(x), self.window)
        return x + self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))


class Sam(nnx.Module):
    """Patches, position embedding, blocks as scanned runs of one kind, neck."""

    def __init__(self, config: SamConfig, rngs: nnx.Rngs):
        self.config = config
        self.patch_embedding = patch_embedding(config.patch_size, config.width, rngs, config.dtype)
        self.position_embedding = normal(rngs, (config.grid, config.grid, config.width), config.dtype)
        self.runs = nnx.List([
            stack(partial(SamBlock, config, windowed), len(blocks), rngs)
            for windowed, blocks in block_runs(config.layers, config.global_blocks)
        ])  # fmt: skip
        self.neck = Neck(config.width, config.out, config.eps, rngs, config.dtype, gelu=False)

    def embed(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "G G D"]:
        """The map before the first block."""
        return self.patch_embedding(pixels.astype(self.config.dtype)) + self.position_embedding[...]

    def feature_map(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "G G C"]:
        """The map after the neck."""
        x = self.embed(pixels)
        for blocks in self.runs:
            x, _ = scan_layers(blocks, lambda layer, x, _: (layer(x), None), x)
        return self.neck(x)

    def __call__(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N C"]:
        """Tokens, row by row."""
        return self.feature_map(pixels).reshape(-1, self.config.out)


class Vary(nnx.Module):
    """SAM's encoder and `net_2`, a convolution of stride 2; upstream's `net_3` is not part of MoVA."""

    def __init__(self, config: SamConfig, rngs: nnx.Rngs):
        self.encoder = Sam(config, rngs)
        self.net_2 = conv(config.out, 2 * config.out, 3, rngs, config.dtype, stride=2)

    def __call__(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N C"]:
        """Tokens, row by row."""
        x = self.net_2(self.encoder.feature_map(pixels))
        return x.reshape(-1, x.shape[-1])


def sam_leaves(ours: str, theirs: str, config: SamConfig) -> dict[str, Leaf]:
    """Parameters of `Sam` at path `ours`, from an encoder at prefix `theirs`, which ends in its separator."""
    leaves = {
        f"{ours}/patch_embedding/kernel": Leaf((f"{theirs}patch_embed.proj.weight",), convolution),
        f"{ours}/patch_embedding/bias": Leaf((f"{theirs}patch_embed.proj.bias",)),
        f"{ours}/position_embedding": Leaf((f"{theirs}pos_embed",), drop_leading_axis),
        **neck_leaves(f"{ours}/neck", f"{theirs}neck", gelu=False),
    }
    for number, (_, blocks) in enumerate(block_runs(config.layers, config.global_blocks)):
        run, layer = f"{ours}/runs/{number}", f"{theirs}blocks.{{}}"
        for norm in ("norm1", "norm2"):
            leaves |= norm_leaves(f"{run}/{norm}", f"{layer}.{norm}", blocks)
        for part, name in (
            ("attention/qkv/linear", "attn.qkv"),
            ("attention/o_proj", "attn.proj"),
            ("fc1", "mlp.lin1"),
            ("fc2", "mlp.lin2"),
        ):
            leaves |= linear_leaves(f"{run}/{part}", f"{layer}.{name}", layers=blocks)
        for table in ("rel_pos_h", "rel_pos_w"):
            names = layer_names(f"{layer}.attn.{table}", blocks)
            leaves[f"{run}/attention/{table}"] = Leaf(names, stacked=True)
    return leaves


def vary_leaves(ours: str, theirs: str, config: SamConfig) -> dict[str, Leaf]:
    """Parameters of `Vary` at path `ours`, from an encoder at prefix `theirs`, which ends in its separator."""
    leaves = sam_leaves(f"{ours}/encoder", theirs, config)
    return leaves | {f"{ours}/net_2/kernel": Leaf((f"{theirs}net_2.weight",), convolution)}
