"""The CLIP vision transformer of Hugging Face's CLIPVisionModel, up to a given number of blocks.

MoAI (490 px) and MoVA (672 px) use the patch tokens of an inner block: no class token, no `post_layernorm`.

Axis letters: N patches, D width. The methods take one image, channels last.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ports.common.checkpoint.mapping import Leaf, as_is, convolution, linear_leaves, norm_leaves
from ports.common.layers.attention import SelfAttention
from ports.common.layers.linear import LayerNorm, linear, normal
from ports.common.layers.stack import scan_layers, stack


@dataclass(frozen=True)
class ClipVitConfig:
    """Sizes of the tower; the defaults are those of ViT-L/14."""

    image_size: int
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 4096
    eps: float = 1e-5
    dtype: str = "float32"
    remat: bool = False

    @property
    def patches(self) -> int:
        """The number N of patch tokens."""
        return (self.image_size // self.patch_size) ** 2


def quick_gelu(x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
    """CLIP's activation, x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


class ClipBlock(nnx.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: ClipVitConfig, rngs: nnx.Rngs):
        self.layer_norm1 = LayerNorm(config.width, config.eps, config.dtype)
        self.attention = SelfAttention(config.width, config.heads, rngs, config.dtype)
        self.layer_norm2 = LayerNorm(config.width, config.eps, config.dtype)
        self.fc1 = linear(config.width, config.hidden, rngs, config.dtype)
        self.fc2 = linear(config.hidden, config.width, rngs, config.dtype)

    def __call__(self, x: Float[Array, "N+1 D"]) -> Float[Array, "N+1 D"]:
        x = x + self.attention(self.layer_norm1(x))
        return x + self.fc2(quick_gelu(self.fc1(self.layer_norm2(x))))


class ClipVit(nnx.Module):
    """Patch embedding, class token, position embedding, `pre_layernorm`, and the blocks as a scanned stack."""

    def __init__(self, config: ClipVitConfig, rngs: nnx.Rngs):
        self.config = config
        size, dtype = config.patch_size, jnp.dtype(config.dtype)
        self.patch_embedding = nnx.Conv(
            3, config.width, (size, size), strides=size, padding="VALID", use_bias=False,
            dtype=dtype, param_dtype=dtype, rngs=rngs,
        )  # fmt: skip
        self.class_embedding = normal(rngs, (config.width,), config.dtype)
        self.position_embedding = normal(rngs, (config.patches + 1, config.width), config.dtype)
        self.pre_layernorm = LayerNorm(config.width, config.eps, config.dtype)
        self.layers = stack(lambda rngs: ClipBlock(config, rngs), config.layers, rngs)

    def embed(self, pixels: Float[Array, "size size 3"]) -> Float[Array, "N+1 D"]:
        """Class token and patches before the first block: Hugging Face's hidden state 0."""
        patches = self.patch_embedding(pixels.astype(self.config.dtype)).reshape(-1, self.config.width)  # [N, D]
        return self.pre_layernorm(
            jnp.concatenate([self.class_embedding[...][None], patches]) + self.position_embedding[...]
        )

    def __call__(self, pixels: Float[Array, "size size 3"], blocks: int | None = None) -> Float[Array, "N D"]:
        """Patch tokens after the first `blocks` blocks; None for all blocks."""
        x, _ = scan_layers(
            self.layers, lambda layer, x, _: (layer(x), None), self.embed(pixels),
            stop=blocks, remat="full" if self.config.remat else "none",
        )  # fmt: skip
        return x[1:]


def clip_leaves(ours: str, theirs: str, config: ClipVitConfig) -> dict[str, Leaf]:
    """Parameters of `ClipVit` at path `ours`, from a CLIPVisionModel at prefix `theirs` (`...vision_model.`).

    `post_layernorm` and `embeddings.position_ids` are not needed.
    """
    embeddings, layer = f"{theirs}embeddings", f"{theirs}encoder.layers.{{}}"
    leaves = {
        f"{ours}/patch_embedding/kernel": Leaf((f"{embeddings}.patch_embedding.weight",), convolution),
        f"{ours}/class_embedding": Leaf((f"{embeddings}.class_embedding",), as_is),
        f"{ours}/position_embedding": Leaf((f"{embeddings}.position_embedding.weight",), as_is),
        **norm_leaves(f"{ours}/pre_layernorm", f"{theirs}pre_layrnorm"),
    }
    for name in ("layer_norm1", "layer_norm2"):
        leaves |= norm_leaves(f"{ours}/layers/{name}", f"{layer}.{name}", config.layers)
    for part, name in (("q_proj", "q_proj"), ("k_proj", "k_proj"), ("v_proj", "v_proj"), ("o_proj", "out_proj")):
        leaves |= linear_leaves(f"{ours}/layers/attention/{part}", f"{layer}.self_attn.{name}", layers=config.layers)
    for name in ("fc1", "fc2"):
        leaves |= linear_leaves(f"{ours}/layers/{name}", f"{layer}.mlp.{name}", layers=config.layers)
    return leaves
