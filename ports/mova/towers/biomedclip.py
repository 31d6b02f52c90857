"""BiomedCLIP's image encoder, expert 5: timm's ViT-B/16; its features are the patch tokens after the final norm.

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
from ports.mova.towers.patches import FusedQKV, drop_leading_axis, patch_embedding


class BiomedBlock(nnx.Module):
    """A pre-norm transformer block with exact GELU."""

    def __init__(self, config: BiomedConfig, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.norm1 = LayerNorm(width, config.eps, dtype)
        self.qkv = FusedQKV(width, config.heads, rngs, dtype)
        self.o_proj = linear(width, width, rngs, dtype)
        self.norm2 = LayerNorm(width, config.eps, dtype)
        self.fc1 = linear(width, config.hidden, rngs, dtype)
        self.fc2 = linear(config.hidden, width, rngs, dtype)

    def __call__(self, x: Float[Array, "N+1 D"]) -> Float[Array, "N+1 D"]:
        query, keys, values = self.qkv(self.norm1(x))
        x = x + self.o_proj(join_heads(attend(query, keys, values)))
        return x + self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))


class BiomedClip(nnx.Module):
    """Patches, class token, position embedding, blocks as a scanned stack, final norm."""

    def __init__(self, config: BiomedConfig, rngs: nnx.Rngs):
        self.config = config
        self.patch_embedding = patch_embedding(config.patch_size, config.width, rngs, config.dtype)
        self.cls_token = normal(rngs, (config.width,), config.dtype)
        self.position_embedding = normal(rngs, (config.grid**2 + 1, config.width), config.dtype)
        self.layers = stack(lambda rngs: BiomedBlock(config, rngs), config.layers, rngs)
        self.norm = LayerNorm(config.width, config.eps, config.dtype)

    def __call__(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N D"]:
        """Patch tokens of an image of the tower's own size; the class token is dropped."""
        patches = self.patch_embedding(pixels.astype(self.config.dtype)).reshape(-1, self.config.width)  # [N, D]
        x = jnp.concatenate([self.cls_token[...][None], patches]) + self.position_embedding[...]
        x, _ = scan_layers(self.layers, lambda layer, x, _: (layer(x), None), x)
        return self.norm(x)[1:]


def biomedclip_leaves(ours: str, theirs: str, config: BiomedConfig) -> dict[str, Leaf]:
    """Parameters of `BiomedClip` at path `ours`, from open_clip's `visual` at a prefix which ends in its separator.

    `head.proj` is not read.
    """
    trunk = f"{theirs}trunk"
    leaves = {
        f"{ours}/patch_embedding/kernel": Leaf((f"{trunk}.patch_embed.proj.weight",), convolution),
        f"{ours}/patch_embedding/bias": Leaf((f"{trunk}.patch_embed.proj.bias",)),
        f"{ours}/cls_token": Leaf((f"{trunk}.cls_token",), lambda tensor: tensor[0, 0]),
        f"{ours}/position_embedding": Leaf((f"{trunk}.pos_embed",), drop_leading_axis),
        **norm_leaves(f"{ours}/norm", f"{trunk}.norm"),
    }
    for norm in ("norm1", "norm2"):
        leaves |= norm_leaves(f"{ours}/layers/{norm}", f"{trunk}.blocks.{{}}.{norm}", config.layers)
    for part, name in (("qkv/linear", "attn.qkv"), ("o_proj", "attn.proj"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):
        leaves |= linear_leaves(f"{ours}/layers/{part}", f"{trunk}.blocks.{{}}.{name}", layers=config.layers)
    return leaves
