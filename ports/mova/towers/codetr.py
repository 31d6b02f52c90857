"""Co-DETR's ViT-L, expert 2 (EVA-02 style): windows, rotary positions, gated feed-forwards with a norm inside.

Axis letters: G places along a side of the map, N tokens that attend to each other, H heads, d head width, D width,
C channels. One image, channels last.
"""

from __future__ import annotations

from functools import partial

from flax import nnx
from jaxtyping import Array, Float

from ports.common.checkpoint.mapping import Leaf, convolution, layer_names, linear_leaves, norm_leaves
from ports.common.layers.attention import attend, join_heads, split_heads
from ports.common.layers.linear import LayerNorm, linear, normal
from ports.common.layers.stack import scan_layers, stack
from ports.mova.config import CoDetrConfig
from ports.mova.layers import GatedNormed, angles, bilinear, gated_leaves, rotate_pairs
from ports.mova.towers.patches import Neck, first, neck_leaves, over_map, patch_embedding, runs


class CoDetrAttention(nnx.Module):
    """Self-attention over a square of tokens with rotated queries and keys; keys have no bias."""

    def __init__(self, config: CoDetrConfig, side: int, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.heads, self.side, self.reference = config.heads, side, config.rope_grid
        self.query = linear(width, width, rngs, dtype)
        self.key = linear(width, width, rngs, dtype, bias=False)
        self.value = linear(width, width, rngs, dtype)
        self.out = linear(width, width, rngs, dtype)

    def __call__(self, x: Float[Array, "N D"]) -> Float[Array, "N D"]:
        query, key, value = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        turns = angles(self.side, self.reference, query.shape[-1])
        return self.out(join_heads(attend(rotate_pairs(query, turns), rotate_pairs(key, turns), value)))


class CoDetrBlock(nnx.Module):
    """A pre-norm block over windows or over the whole map."""

    def __init__(self, config: CoDetrConfig, windowed: bool, rngs: nnx.Rngs):
        self.window = config.window if windowed else None
        self.norm1 = LayerNorm(config.width, config.eps, config.dtype)
        self.attention = CoDetrAttention(config, self.window or config.grid, rngs)
        self.norm2 = LayerNorm(config.width, config.eps, config.dtype)
        self.feed_forward = GatedNormed(config.width, config.hidden, config.eps, rngs, config.dtype)

    def __call__(self, x: Float[Array, "G G D"]) -> Float[Array, "G G D"]:
        x = x + over_map(self.attention, self.norm1(x), self.window)
        return x + self.feed_forward(self.norm2(x))


class CoDetr(nnx.Module):
    """Patches, position table, blocks as scanned runs of one kind, norm, neck with gelu, a smaller map."""

    def __init__(self, config: CoDetrConfig, rngs: nnx.Rngs):
        self.config = config
        self.patch = patch_embedding(config.patch_size, config.width, rngs, config.dtype)
        self.places = normal(rngs, (config.grid**2, config.width), config.dtype)
        self.runs = nnx.List([
            stack(partial(CoDetrBlock, config, windowed), len(blocks), rngs)
            for windowed, blocks in runs(config.layers, config.global_blocks)
        ])  # fmt: skip
        self.norm = LayerNorm(config.width, config.out_eps, config.dtype)
        self.neck = Neck(config.width, config.out, config.eps, rngs, config.dtype, gelu=True)

    def embed(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "G G D"]:
        """The map before the first block."""
        patches = self.patch(pixels.astype(self.config.dtype))
        return patches + self.places[...].reshape(patches.shape)

    def see(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "G G C"]:
        """The map behind the neck."""
        x = self.embed(pixels)
        for blocks in self.runs:
            x, _ = scan_layers(blocks, lambda layer, x, _: (layer(x), None), x)
        return self.neck(self.norm(x))

    def __call__(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N C"]:
        """Tokens of an image of the tower's own size, on the smaller map, row by row."""
        return bilinear(self.see(pixels), self.config.out_grid).reshape(-1, self.config.out)


def codetr_leaves(ours: str, theirs: str, config: CoDetrConfig) -> dict[str, Leaf]:
    """Parameters of `CoDetr` at path `ours`, from a backbone at prefix `theirs`, which ends in its separator.

    The tables `rope_*` and `*.rope.freqs_*` are known there and not needed: they are computed.
    """
    leaves = {
        f"{ours}/patch/kernel": Leaf((f"{theirs}patch_embed.proj.weight",), convolution),
        f"{ours}/patch/bias": Leaf((f"{theirs}patch_embed.proj.bias",)),
        f"{ours}/places": Leaf((f"{theirs}pos_embed",), lambda tensor: first(tensor)[1:]),  # without the class token's
        **norm_leaves(f"{ours}/norm", f"{theirs}out_norm"),
        **neck_leaves(f"{ours}/neck", f"{theirs}neck", gelu=True),
    }
    for number, (_, blocks) in enumerate(runs(config.layers, config.global_blocks)):
        run, layer = f"{ours}/runs/{number}", f"{theirs}blocks.{{}}"
        for norm in ("norm1", "norm2"):
            leaves |= norm_leaves(f"{run}/{norm}", f"{layer}.{norm}", blocks)
        for part in ("query", "key", "value"):
            name = f"{layer}.attn.{part[0]}"
            leaves |= linear_leaves(f"{run}/attention/{part}", f"{name}_proj", bias=False, layers=blocks)
            if part != "key":
                leaves[f"{run}/attention/{part}/bias"] = Leaf(layer_names(f"{name}_bias", blocks), stacked=True)
        leaves |= linear_leaves(f"{run}/attention/out", f"{layer}.attn.proj", layers=blocks)
        leaves |= gated_leaves(f"{run}/feed_forward", f"{layer}.mlp", blocks)
    return leaves
