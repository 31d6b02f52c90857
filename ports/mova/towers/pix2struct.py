"""The encoders of Pix2Struct-large and Deplot, experts 3 and 4: patches with row and column, T5-style blocks.

Axis letters: P patches, padded ones included, D width, H heads, d head width. One image.
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
    """Pre-norm; attention without biases and without 1 / sqrt(d); down(gelu(gate(x)) * up(x)), gelu by tanh."""

    def __init__(self, config: Pix2StructConfig, rngs: nnx.Rngs):
        width, inner, dtype = config.width, config.heads * config.head_width, config.dtype
        self.heads = config.heads
        self.norm1 = RMSNorm(width, config.eps, dtype)
        self.query = linear(width, inner, rngs, dtype, bias=False)
        self.key = linear(width, inner, rngs, dtype, bias=False)
        self.value = linear(width, inner, rngs, dtype, bias=False)
        self.out = linear(inner, width, rngs, dtype, bias=False)
        self.norm2 = RMSNorm(width, config.eps, dtype)
        self.gate = linear(width, config.hidden, rngs, dtype, bias=False)
        self.up = linear(width, config.hidden, rngs, dtype, bias=False)
        self.down = linear(config.hidden, width, rngs, dtype, bias=False)

    def __call__(self, x: Float[Array, "P D"], mask: Bool[Array, "1 P"]) -> Float[Array, "P D"]:
        h = self.norm1(x)
        query, key, value = (split_heads(part(h), self.heads) for part in (self.query, self.key, self.value))
        x = x + self.out(join_heads(attend(query, key, value, mask, scale=1.0)))
        h = self.norm2(x)
        return x + self.down(jax.nn.gelu(self.gate(h), approximate=True) * self.up(h))


class Pix2Struct(nnx.Module):
    """Patch, row and column embeddings, blocks as a scanned stack, final norm."""

    def __init__(self, config: Pix2StructConfig, rngs: nnx.Rngs):
        self.config = config
        self.patch = linear(3 * config.patch_size**2, config.width, rngs, config.dtype)
        self.rows = normal(rngs, (config.positions, config.width), config.dtype)
        self.columns = normal(rngs, (config.positions, config.width), config.dtype)
        self.layers = stack(lambda rngs: Pix2StructBlock(config, rngs), config.layers, rngs)
        self.norm = RMSNorm(config.width, config.eps, config.dtype)

    def embed(self, patches: Float[Array, "P 2+pixels"]) -> Float[Array, "P D"]:
        """A patch is its row, its column (both from 1, 0 where padded) and its pixels."""
        rows, columns = patches[:, 0].astype(jnp.int32), patches[:, 1].astype(jnp.int32)
        return self.patch(patches[:, 2:]) + self.rows[...][rows] + self.columns[...][columns]

    def __call__(self, patches: Float[Array, "P 2+pixels"]) -> Float[Array, "P D"]:
        """States behind the final norm. Padded patches, whose numbers sum to zero, are seen by nobody."""
        mask = (patches.sum(axis=-1) != 0)[None]
        x, _ = scan_layers(self.layers, lambda layer, x, _: (layer(x, mask), None), self.embed(patches))
        return self.norm(x)


def pix2struct_leaves(ours: str, theirs: str, config: Pix2StructConfig) -> dict[str, Leaf]:
    """Parameters of `Pix2Struct` at path `ours`, from a Pix2StructVisionModel at prefix `theirs`."""
    embeddings, layer = f"{theirs}embeddings", f"{theirs}encoder.layer.{{}}"
    leaves = {
        **linear_leaves(f"{ours}/patch", f"{embeddings}.patch_projection"),
        f"{ours}/rows": Leaf((f"{embeddings}.row_embedder.weight",)),
        f"{ours}/columns": Leaf((f"{embeddings}.column_embedder.weight",)),
        **norm_leaves(f"{ours}/norm", f"{theirs}layernorm", bias=False),
    }
    for norm, name in (("norm1", "pre_attention_layer_norm"), ("norm2", "pre_mlp_layer_norm")):
        leaves |= norm_leaves(f"{ours}/layers/{norm}", f"{layer}.{name}", config.layers, bias=False)
    for part, name in (
        ("query", "attention.query"),
        ("key", "attention.key"),
        ("value", "attention.value"),
        ("out", "attention.output"),
        ("gate", "mlp.wi_0"),
        ("up", "mlp.wi_1"),
        ("down", "mlp.wo"),
    ):
        leaves |= linear_leaves(f"{ours}/layers/{part}", f"{layer}.{name}", bias=False, layers=config.layers)
    return leaves
