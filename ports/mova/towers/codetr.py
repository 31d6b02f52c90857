"""Co-DETR's ViT-L, expert 2 (EVA-02 style): windows, rotary positions, SwiGLU with a norm inside.

Axis letters: G side of the map, N tokens that attend to each other, H heads, d head width, D width, C channels.
One image, channels last.
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
from ports.mova.layers import NormedSwiGLU, bilinear, normed_swiglu_leaves, rotary_angles, rotate_pairs
from ports.mova.towers.patches import (
    Neck,
    attend_in_windows,
    block_runs,
    drop_leading_axis,
    neck_leaves,
    patch_embedding,
)


class CoDetrAttention(nnx.Module):
    """Self-attention over a square of tokens with rotary positions; keys have no bias."""

    def __init__(self, config: CoDetrConfig, side: int, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.heads, self.side, self.reference = config.heads, side, config.rope_grid
        self.q_proj = linear(width, width, rngs, dtype)
        self.k_proj = linear(width, width, rngs, dtype, bias=False)
        self.v_proj = linear(width, width, rngs, dtype)
        self.o_proj = linear(width, width, rngs, dtype)

    def __call__(self, x: Float[Array, "N D"]) -> Float[Array, "N D"]:
        query, key, value = (split_heads(part(x), self.heads) for part in (self.q_proj, self.k_proj, self.v_proj))
        angles = rotary_angles(self.side, self.reference, query.shape[-1])
        return self.o_proj(join_heads(attend(rotate_pairs(query, angles), rotate_pairs(key, angles), value)))


class CoDetrBlock(nnx.Module):
    """A pre-norm block over windows or over the whole map."""

    def __init__(self, config: CoDetrConfig, windowed: bool, rngs: nnx.Rngs):
        self.window = config.window if windowed else None
        self.norm1 = LayerNorm(config.width, config.eps, config.dtype)
        self.attention = CoDetrAttention(config, self.window or config.grid, rngs)
        self.norm2 = LayerNorm(config.width, config.eps, config.dtype)
        self.mlp = NormedSwiGLU(config.width, config.hidden, config.eps, rngs, config.dtype)

    def __call__(self, x: Float[Array, "G G D"]) -> Float[Array, "G G D"]:
        x = x + attend_in_windows(self.attention, self.norm1(x), self.window)
        return x + self.mlp(self.norm2(x))


class CoDetr(nnx.Module):
    """Patches, position embedding, blocks as scanned runs of one kind, norm, neck with GELU, a smaller map."""

    def __init__(self, config: CoDetrConfig, rngs: nnx.Rngs):
        self.config = config
        self.patch_embedding = patch_embedding(config.patch_size, config.width, rngs, config.dtype)
        self.position_embedding = normal(rngs, (config.grid**2, config.width), config.dtype)
        self.runs = nnx.List([
            stack(partial(CoDetrBlock, config, windowed), len(blocks), rngs)
            for windowed, blocks in block_runs(config.layers, config.global_blocks)
        ])  # fmt: skip
        self.norm = LayerNorm(config.width, config.out_eps, config.dtype)
        self.neck = Neck(config.width, config.out, config.eps, rngs, config.dtype, gelu=True)

    def embed(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "G G D"]:
        """The map before the first block."""
        patches = self.patch_embedding(pixels.astype(self.config.dtype))
        return patches + self.position_embedding[...].reshape(patches.shape)

    def feature_map(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "G G C"]:
        """The map after the neck."""
        x = self.embed(pixels)
        for blocks in self.runs:
            x, _ = scan_layers(blocks, lambda layer, x, _: (layer(x), None), x)
        return self.neck(self.norm(x))

    def __call__(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N C"]:
        """Tokens of an image of the tower's own size, on the smaller map, row by row."""
        return bilinear(self.feature_map(pixels), self.config.out_grid).reshape(-1, self.config.out)


def codetr_leaves(ours: str, theirs: str, config: CoDetrConfig) -> dict[str, Leaf]:
    """Parameters of `CoDetr` at path `ours`, from a backbone at prefix `theirs`, which ends in its separator.

    The tables `rope_*` and `*.rope.freqs_*` are not read, because they are computed; nor is the row of the position
    embedding that belongs to a class token.
    """
    leaves = {
        f"{ours}/patch_embedding/kernel": Leaf((f"{theirs}patch_embed.proj.weight",), convolution),
        f"{ours}/patch_embedding/bias": Leaf((f"{theirs}patch_embed.proj.bias",)),
        f"{ours}/position_embedding": Leaf((f"{theirs}pos_embed",), lambda tensor: drop_leading_axis(tensor)[1:]),
        **norm_leaves(f"{ours}/norm", f"{theirs}out_norm"),
        **neck_leaves(f"{ours}/neck", f"{theirs}neck", gelu=True),
    }
    for number, (_, blocks) in enumerate(block_runs(config.layers, config.global_blocks)):
        run, layer = f"{ours}/runs/{number}", f"{theirs}blocks.{{}}"
        for norm in ("norm1", "norm2"):
            leaves |= norm_leaves(f"{run}/{norm}", f"{layer}.{norm}", blocks)
        for part in ("q_proj", "k_proj", "v_proj"):
            leaves |= linear_leaves(f"{run}/attention/{part}", f"{layer}.attn.{part}", bias=False, layers=blocks)
        for part, bias in (("q_proj", "q_bias"), ("v_proj", "v_bias")):
            names = layer_names(f"{layer}.attn.{bias}", blocks)
            leaves[f"{run}/attention/{part}/bias"] = Leaf(names, stacked=True)
        leaves |= linear_leaves(f"{run}/attention/o_proj", f"{layer}.attn.proj", layers=blocks)
        leaves |= normed_swiglu_leaves(f"{run}/mlp", f"{layer}.mlp", blocks)
    return leaves
