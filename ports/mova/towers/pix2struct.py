"""The encoders of Pix2Struct-large and Deplot, experts 3 and 4: patches with row and column, T5-style blocks.

Axis letters: P patches, padding included, D width, H heads, d head width. One image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ports.common.checkpoint.mapping import Leaf, linear_leaves, norm_leaves
from ports.common.layers.attention import attend, join_heads, split_heads
from ports.common.layers.linear import RMSNorm, linear, normal
from ports.common.layers.stack import scan_layers, stack
from ports.mova.config import Pix2StructConfig


class Pix2StructBlock(nnx.Module):
    """Pre-norm; attention without biases and without 1 / sqrt(d); wo(gelu(wi_0(x)) * wi_1(x)), GELU by tanh."""

    def __init__(self, config: Pix2StructConfig, rngs: nnx.Rngs):
        width, inner, dtype = config.width, config.heads * config.head_width, config.dtype
        self.heads = config.heads
        self.pre_attention_layer_norm = RMSNorm(width, config.eps, dtype)
        self.q_proj = linear(width, inner, rngs, dtype, bias=False)
        self.k_proj = linear(width, inner, rngs, dtype, bias=False)
        self.v_proj = linear(width, inner, rngs, dtype, bias=False)
        self.o_proj = linear(inner, width, rngs, dtype, bias=False)
        self.pre_mlp_layer_norm = RMSNorm(width, config.eps, dtype)
        self.wi_0 = linear(width, config.hidden, rngs, dtype, bias=False)
        self.wi_1 = linear(width, config.hidden, rngs, dtype, bias=False)
        self.wo = linear(config.hidden, width, rngs, dtype, bias=False)

    def __call__(self, x: Float[Array, "P D"], mask: Bool[Array, "1 P"]) -> Float[Array, "P D"]:
        h = self.pre_attention_layer_norm(x)
        query, key, value = (split_heads(part(h), self.heads) for part in (self.q_proj, self.k_proj, self.v_proj))
        x = x + self.o_proj(join_heads(attend(query, key, value, mask, scale=1.0)))
        h = self.pre_mlp_layer_norm(x)
        return x + self.wo(jax.nn.gelu(self.wi_0(h), approximate=True) * self.wi_1(h))


class Pix2Struct(nnx.Module):
    """Patch, row and column embeddings, blocks as a scanned stack, final norm."""

    def __init__(self, config: Pix2StructConfig, rngs: nnx.Rngs):
        self.config = config
        self.patch_projection = linear(3 * config.patch_size**2, config.width, rngs, config.dtype)
        self.row_embedder = normal(rngs, (config.positions, config.width), config.dtype)
        self.column_embedder = normal(rngs, (config.positions, config.width), config.dtype)
        self.layers = stack(lambda rngs: Pix2StructBlock(config, rngs), config.layers, rngs)
        self.norm = RMSNorm(config.width, config.eps, config.dtype)

    def embed(self, patches: Float[Array, "P 2+pixels"]) -> Float[Array, "P D"]:
        """Embeddings of patches given as row, column (both from 1, 0 for padding) and pixels."""
        rows, columns = patches[:, 0].astype(jnp.int32), patches[:, 1].astype(jnp.int32)
        positions = self.row_embedder[...][rows], self.column_embedder[...][columns]
        return self.patch_projection(patches[:, 2:]) + positions[0] + positions[1]

    def __call__(self, patches: Float[Array, "P 2+pixels"]) -> Float[Array, "P D"]:
        """Hidden states after the final norm. Patches whose numbers sum to zero are padding and are masked."""
        mask = (patches.sum(axis=-1) != 0)[None]
        x, _ = scan_layers(self.layers, lambda layer, x, _: (layer(x, mask), None), self.embed(patches))
        return self.norm(x)


def pix2struct_leaves(ours: str, theirs: str, config: Pix2StructConfig) -> dict[str, Leaf]:
    """Parameters of `Pix2Struct` at path `ours`, from a Pix2StructVisionModel at prefix `theirs`."""
    embeddings, layer = f"{theirs}embeddings", f"{theirs}encoder.layer.{{}}"
    leaves = {
        **linear_leaves(f"{ours}/patch_projection", f"{embeddings}.patch_projection"),
        f"{ours}/row_embedder": Leaf((f"{embeddings}.row_embedder.weight",)),
        f"{ours}/column_embedder": Leaf((f"{embeddings}.column_embedder.weight",)),
        **norm_leaves(f"{ours}/norm", f"{theirs}layernorm", bias=False),
    }
    for norm in ("pre_attention_layer_norm", "pre_mlp_layer_norm"):
        leaves |= norm_leaves(f"{ours}/layers/{norm}", f"{layer}.{norm}", config.layers, bias=False)
    for part, name in (
        ("q_proj", "attention.query"),
        ("k_proj", "attention.key"),
        ("v_proj", "attention.value"),
        ("o_proj", "attention.output"),
        ("wi_0", "mlp.wi_0"),
        ("wi_1", "mlp.wi_1"),
        ("wo", "mlp.wo"),
    ):
        leaves |= linear_leaves(f"{ours}/layers/{part}", f"{layer}.{name}", bias=False, layers=config.layers)
    return leaves
