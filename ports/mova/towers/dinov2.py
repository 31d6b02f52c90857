"""DINOv2-giant, expert 0: pre-norm blocks with layer scales and SwiGLU; its features are taken before the final norm.

Axis letters: N patches, D width. One image, channels last.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ports.common.checkpoint.mapping import Leaf, convolution, layer_names, linear_leaves, norm_leaves
from ports.common.layers.attention import SelfAttention
from ports.common.layers.linear import LayerNorm, along_last, linear, normal
from ports.common.layers.stack import scan_layers, stack
from ports.mova.config import DinoConfig
from ports.mova.towers.patches import drop_leading_axis, patch_embedding


class DinoBlock(nnx.Module):
    """x += scale1 * attention(norm1(x)); x += scale2 * weights_out(silu(a) * b), (a, b) = weights_in(norm2(x))."""

    def __init__(self, config: DinoConfig, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.norm1 = LayerNorm(width, config.eps, dtype)
        self.attention = SelfAttention(width, config.heads, rngs, dtype)
        self.layer_scale1 = nnx.Param(jnp.ones(width, dtype))
        self.norm2 = LayerNorm(width, config.eps, dtype)
        self.weights_in = linear(width, 2 * config.hidden, rngs, dtype)
        self.weights_out = linear(config.hidden, width, rngs, dtype)
        self.layer_scale2 = nnx.Param(jnp.ones(width, dtype))

    def __call__(self, x: Float[Array, "N+1 D"]) -> Float[Array, "N+1 D"]:
        x = x + along_last(self.layer_scale1[...], x.ndim) * self.attention(self.norm1(x))
        gate, value = jnp.split(self.weights_in(self.norm2(x)), 2, axis=-1)
        return x + along_last(self.layer_scale2[...], x.ndim) * self.weights_out(jax.nn.silu(gate) * value)


class DinoV2(nnx.Module):
    """The first `blocks` blocks: blocks after the hidden state that is used are not built."""

    def __init__(self, config: DinoConfig, blocks: int, rngs: nnx.Rngs):
        self.config = config
        self.patch_embedding = patch_embedding(config.patch_size, config.width, rngs, config.dtype)
        self.cls_token = normal(rngs, (config.width,), config.dtype)
        self.position_embedding = normal(rngs, (config.grid**2 + 1, config.width), config.dtype)
        self.layers = stack(lambda rngs: DinoBlock(config, rngs), blocks, rngs)

    def embed(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N+1 D"]:
        """Class token and patches before the first block."""
        patches = self.patch_embedding(pixels.astype(self.config.dtype)).reshape(-1, self.config.width)  # [N, D]
        return jnp.concatenate([self.cls_token[...][None], patches]) + self.position_embedding[...]

    def __call__(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N D"]:
        """Patch tokens of an image of the tower's own size."""
        x, _ = scan_layers(self.layers, lambda layer, x, _: (layer(x), None), self.embed(pixels))
        return x[1:]


def dinov2_leaves(ours: str, theirs: str, blocks: int) -> dict[str, Leaf]:
    """Parameters of `DinoV2` at path `ours`, from a Dinov2Model at prefix `theirs`, which ends in its separator.

    `embeddings.mask_token`, `layernorm` and the blocks from number `blocks` on are not read.
    """
    embeddings, layer = f"{theirs}embeddings", f"{theirs}encoder.layer.{{}}"
    leaves = {
        f"{ours}/patch_embedding/kernel": Leaf((f"{embeddings}.patch_embeddings.projection.weight",), convolution),
        f"{ours}/patch_embedding/bias": Leaf((f"{embeddings}.patch_embeddings.projection.bias",)),
        f"{ours}/cls_token": Leaf((f"{embeddings}.cls_token",), lambda tensor: tensor[0, 0]),
        f"{ours}/position_embedding": Leaf((f"{embeddings}.position_embeddings",), drop_leading_axis),
    }
    for number in ("1", "2"):
        leaves |= norm_leaves(f"{ours}/layers/norm{number}", f"{layer}.norm{number}", blocks)
        scales = layer_names(f"{layer}.layer_scale{number}.lambda1", blocks)
        leaves[f"{ours}/layers/layer_scale{number}"] = Leaf(scales, stacked=True)
    for part, name in (
        ("attention/q_proj", "attention.attention.query"),
        ("attention/k_proj", "attention.attention.key"),
        ("attention/v_proj", "attention.attention.value"),
        ("attention/o_proj", "attention.output.dense"),
        ("weights_in", "mlp.weights_in"),
        ("weights_out", "mlp.weights_out"),
    ):
        leaves |= linear_leaves(f"{ours}/layers/{part}", f"{layer}.{name}", layers=blocks)
    return leaves
