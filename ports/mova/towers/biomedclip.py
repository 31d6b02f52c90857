"""BiomedCLIP's image encoder, expert 5: timm's ViT-B/16, read as tokens behind the final norm.

Axis letters: N patches, D width. One image, channels last.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ports.common.checkpoint.mapping import Leaf, convolution, linear_leaves, norm_leaves
from ports.common.layers.attention import attend, join_heads
from ports.common.layers.linear import LayerNorm, linear, normal
from ports.common.layers.stack import scan_layers, stack
from ports.mova.config import BiomedConfig
from ports.mova.towers.patches import FusedQKV, first, patch_embedding


class BiomedBlock(nnx.Module):
    """A pre-norm transformer block with exact gelu."""

    def __init__(self, config: BiomedConfig, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.norm1 = LayerNorm(width, config.eps, dtype)
        self.project = FusedQKV(width, config.heads, rngs, dtype)
        self.out = linear(width, width, rngs, dtype)
        self.norm2 = LayerNorm(width, config.eps, dtype)
        self.up = linear(width, config.hidden, rngs, dtype)
        self.down = linear(config.hidden, width, rngs, dtype)

    def __call__(self, x: Float[Array, "N+1 D"]) -> Float[Array, "N+1 D"]:
        query, keys, values = self.project(self.norm1(x))
        x = x + self.out(join_heads(attend(query, keys, values)))
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x)), approximate=False))


class BiomedClip(nnx.Module):
    """Patches, class token, position table, blocks as a scanned stack, final norm."""

    def __init__(self, config: BiomedConfig, rngs: nnx.Rngs):
        self.config = config
        self.patch = patch_embedding(config.patch_size, config.width, rngs, config.dtype)
        self.class_token = normal(rngs, (config.width,), config.dtype)
        self.places = normal(rngs, (config.grid**2 + 1, config.width), config.dtype)
        self.layers = stack(lambda rngs: BiomedBlock(config, rngs), config.layers, rngs)
        self.norm = LayerNorm(config.width, config.eps, config.dtype)

    def __call__(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N D"]:
        """Patch tokens of an image of the tower's own size; the class token is dropped."""
        patches = self.patch(pixels.astype(self.config.dtype)).reshape(-1, self.config.width)  # [N, D]
        x = jnp.concatenate([self.class_token[...][None], patches]) + self.places[...]
        x, _ = scan_layers(self.layers, lambda layer, x, _: (layer(x), None), x)
        return self.norm(x)[1:]


def biomedclip_leaves(ours: str, theirs: str, config: BiomedConfig) -> dict[str, Leaf]:
    """Parameters of `BiomedClip` at path `ours`, from open_clip's `visual` at a prefix which ends in its separator.

    `head.proj` is known there and not needed.
    """
    trunk = f"{theirs}trunk"
    leaves = {
        f"{ours}/patch/kernel": Leaf((f"{trunk}.patch_embed.proj.weight",), convolution),
        f"{ours}/patch/bias": Leaf((f"{trunk}.patch_embed.proj.bias",)),
        f"{ours}/class_token": Leaf((f"{trunk}.cls_token",), lambda tensor: tensor[0, 0]),
        f"{ours}/places": Leaf((f"{trunk}.pos_embed",), first),
        **norm_leaves(f"{ours}/norm", f"{trunk}.norm"),
    }
    for norm in ("norm1", "norm2"):
        leaves |= norm_leaves(f"{ours}/layers/{norm}", f"{trunk}.blocks.{{}}.{norm}", config.layers)
    for part, name in (("project/qkv", "attn.qkv"), ("out", "attn.proj"), ("up", "mlp.fc1"), ("down", "mlp.fc2")):
        leaves |= linear_leaves(f"{ours}/layers/{part}", f"{trunk}.blocks.{{}}.{name}", layers=config.layers)
    return leaves
