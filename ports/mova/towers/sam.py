"""SAM's image encoder, expert 6: windows with decomposed relative positions, four global blocks, a neck.

Axis letters: G places along a side of the map, S along a side of what is attended to, N = S * S tokens, H heads,
d head width, D width, C channels. One image, channels last.
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
from ports.mova.towers.patches import FusedQKV, Neck, conv, first, neck_leaves, over_map, patch_embedding, runs


class SamAttention(nnx.Module):
    """softmax(q k^T / sqrt(d) + q.Rh[y - y'] + q.Rw[x - x']) v over a square of S x S tokens."""

    def __init__(self, config: SamConfig, side: int, rngs: nnx.Rngs):
        width = config.width // config.heads
        self.side = side
        self.project = FusedQKV(config.width, config.heads, rngs, config.dtype)
        self.rows = normal(rngs, (2 * side - 1, width), config.dtype)
        self.columns = normal(rngs, (2 * side - 1, width), config.dtype)
        self.out = linear(config.width, config.width, rngs, config.dtype)

    def __call__(self, x: Float[Array, "N D"]) -> Float[Array, "N D"]:
        query, keys, values = self.project(x)
        return self.out(join_heads(attend(query, keys, values, bias=self._bias(query))))

    def _bias(self, query: Float[Array, "N H d"]) -> Float[Array, "H N N"]:
        """Relative positions along both axes, from the query as it is: the scale 1 / sqrt(d) is not in it."""
        side = self.side
        apart = np.arange(side)[:, None] - np.arange(side)[None] + side - 1  # [S, S]
        square = query.reshape(side, side, *query.shape[1:])
        up = jnp.einsum("yxhd,ykd->hyxk", square, self.rows[...][apart])
        along = jnp.einsum("yxhd,xkd->hyxk", square, self.columns[...][apart])
        both = up[..., :, None] + along[..., None, :]  # [H, S, S, S, S]
        return both.reshape(query.shape[1], side * side, side * side)


class SamBlock(nnx.Module):
    """A pre-norm block. Where the map is padded to whole windows the padding is seen: zeros after the norm."""

    def __init__(self, config: SamConfig, windowed: bool, rngs: nnx.Rngs):
        self.window = config.window if windowed else None
        self.norm1 = LayerNorm(config.width, config.eps, config.dtype)
        self.attention = SamAttention(config, self.window or config.grid, rngs)
        self.norm2 = LayerNorm(config.width, config.eps, config.dtype)
        self.up = linear(config.width, config.hidden, rngs, config.dtype)
        self.down = linear(config.hidden, config.width, rngs, config.dtype)

    def __call__(self, x: Float[Array, "G G D"]) -> Float[Array, "G G D"]:
        x = x + over_map(self.attention, self.norm1(x), self.window)
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x)), approximate=False))


class Sam(nnx.Module):
    """Patches, position table, blocks as scanned runs of one kind, neck."""

    def __init__(self, config: SamConfig, rngs: nnx.Rngs):
        self.config = config
        self.patch = patch_embedding(config.patch_size, config.width, rngs, config.dtype)
        self.places = normal(rngs, (config.grid, config.grid, config.width), config.dtype)
        self.runs = nnx.List([
            stack(partial(SamBlock, config, windowed), len(blocks), rngs)
            for windowed, blocks in runs(config.layers, config.global_blocks)
        ])  # fmt: skip
        self.neck = Neck(config.width, config.out, config.eps, rngs, config.dtype, gelu=False)

    def embed(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "G G D"]:
        """The map before the first block."""
        return self.patch(pixels.astype(self.config.dtype)) + self.places[...]

    def see(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "G G C"]:
        """The map behind the neck."""
        x = self.embed(pixels)
        for blocks in self.runs:
            x, _ = scan_layers(blocks, lambda layer, x, _: (layer(x), None), x)
        return self.neck(x)

    def __call__(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N C"]:
        """Tokens, row by row."""
        return self.see(pixels).reshape(-1, self.config.out)


def sam_leaves(ours: str, theirs: str, config: SamConfig) -> dict[str, Leaf]:
    """Parameters of `Sam` at path `ours`, from an encoder at prefix `theirs`, which ends in its separator."""
    leaves = {
        f"{ours}/patch/kernel": Leaf((f"{theirs}patch_embed.proj.weight",), convolution),
        f"{ours}/patch/bias": Leaf((f"{theirs}patch_embed.proj.bias",)),
        f"{ours}/places": Leaf((f"{theirs}pos_embed",), first),
        **neck_leaves(f"{ours}/neck", f"{theirs}neck", gelu=False),
    }
    for number, (_, blocks) in enumerate(runs(config.layers, config.global_blocks)):
        run, layer = f"{ours}/runs/{number}", f"{theirs}blocks.{{}}"
        for norm in ("norm1", "norm2"):
            leaves |= norm_leaves(f"{run}/{norm}", f"{layer}.{norm}", blocks)
        for part, name in (
            ("attention/project/qkv", "attn.qkv"),
            ("attention/out", "attn.proj"),
            ("up", "mlp.lin1"),
            ("down", "mlp.lin2"),
        ):
            leaves |= linear_leaves(f"{run}/{part}", f"{layer}.{name}", layers=blocks)
        for part, name in (("rows", "rel_pos_h"), ("columns", "rel_pos_w")):
            tables = layer_names(f"{layer}.attn.{name}", blocks)
            leaves[f"{run}/attention/{part}"] = Leaf(tables, stacked=True)
    return leaves


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
