"""The vision tower: patches, resampled learned positions, 2-D rotary attention, mergers, and DeepStack.

transformers' `modeling_qwen3_vl_moe.py`; Qwen3.5-MoE has the same tower without DeepStack. Patches come in blocks of
merge x merge, in the order of the processor.

Axis letters: N patches of all images of a sample, D width of the tower, H heads, d head width, J levels of DeepStack,
W width of the decoder, m = merge^2 patches of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.checkpoint.mapping import Leaf, linear_leaves, norm_leaves
from ports.common.layers.attention import attend, join_heads, split_qkv
from ports.common.layers.linear import LayerNorm, linear, normal
from ports.common.layers.rotary import rotate_by
from ports.common.layers.stack import scan_layers, stack
from ports.common.qwen_vl.config import VisionConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Patches:
    """The patches of a sample's images, one image after the other, padded at the end.

    Args:
        values: normalized pixels of each patch, by channel, frame, row and column.
        frame: the frame that a patch belongs to, counted over all images; -1 for padding.
        place: row and column of each patch in its frame.
        corners, shares: the four learned positions around each patch, and their bilinear weights.
    """

    values: Float[Array, "N P"]
    frame: Int[Array, "N"]
    place: Int[Array, "N 2"]
    corners: Int[Array, "N 4"]
    shares: Float[Array, "N 4"]


class VisionBlock(nnx.Module):
    """x += proj(attention(norm1(x))); x += linear_fc2(gelu(linear_fc1(norm2(x))))."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        self.heads = config.heads
        self.norm1 = LayerNorm(config.width, config.eps, config.dtype)
        self.qkv = linear(config.width, 3 * config.width, rngs, config.dtype)
        self.proj = linear(config.width, config.width, rngs, config.dtype)
        self.norm2 = LayerNorm(config.width, config.eps, config.dtype)
        self.linear_fc1 = linear(config.width, config.hidden, rngs, config.dtype)
        self.linear_fc2 = linear(config.hidden, config.width, rngs, config.dtype)

    def __call__(
        self, x: Float[Array, "N D"], angles: Float[Array, "N d/2"], mask: Bool[Array, "N N"]
    ) -> Float[Array, "N D"]:
        query, key, value = split_qkv(self.qkv(self.norm1(x)), self.heads)
        attended = attend(rotate_by(query, angles), rotate_by(key, angles), value, mask)
        x = x + self.proj(join_heads(attended))
        return x + self.linear_fc2(jax.nn.gelu(self.linear_fc1(self.norm2(x)), approximate=True))


class PatchMerger(nnx.Module):
    """linear_fc2(gelu(linear_fc1(block))) of a block's patches side by side, normalized before or after joining."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, joined_norm: bool):
        wide = config.width * config.merge**2
        self.wide, self.joined_norm = wide, joined_norm
        self.norm = LayerNorm(wide if joined_norm else config.width, config.eps, config.dtype)
        self.linear_fc1 = linear(wide, wide, rngs, config.dtype)
        self.linear_fc2 = linear(wide, config.out, rngs, config.dtype)

    def __call__(self, x: Float[Array, "N D"]) -> Float[Array, "N/m W"]:
        joined = self.norm(x.reshape(-1, self.wide)) if self.joined_norm else self.norm(x).reshape(-1, self.wide)
        return self.linear_fc2(jax.nn.gelu(self.linear_fc1(joined), approximate=False))


class VisionTower(nnx.Module):
    """Patch embedding, learned positions, the blocks as a scanned stack, a merger, and one per DeepStack level."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        self.config = config
        self.patch_embed = linear(config.patch_values, config.width, rngs, config.dtype)
        self.pos_embed = normal(rngs, (config.positions, config.width), config.dtype)
        self.blocks = stack(lambda rngs: VisionBlock(config, rngs), config.depth, rngs)
        self.merger = PatchMerger(config, rngs, joined_norm=False)
        self.deepstack_mergers = nnx.List([PatchMerger(config, rngs, joined_norm=True) for _ in config.deepstack])

    def embed(self, patches: Patches) -> Float[Array, "N D"]:
        """States in front of the first block: patch embeddings and bilinear means of learned positions."""
        table = self.pos_embed[...].astype(jnp.float32)
        positions = (table[patches.corners] * patches.shares[..., None]).sum(axis=1)  # [N, D]
        x = self.patch_embed(patches.values.astype(self.config.dtype))
        return x + positions.astype(x.dtype)

    def angles(self, patches: Patches) -> Float[Array, "N d/2"]:
        """Rotary angles: those of a patch's row, then those of its column."""
        quarter = self.config.width // self.config.heads // 4
        frequencies = 10_000.0 ** (-jnp.arange(quarter, dtype=jnp.float32) / quarter)  # [d/4]
        both = patches.place.astype(jnp.float32)[:, :, None] * frequencies[None, None]
        return both.reshape(len(both), -1)

    def __call__(self, patches: Patches) -> tuple[Float[Array, "N/m W"], Float[Array, "J N/m W"]]:
        """Merged features of each block, and those that DeepStack adds after the first layers of the decoder."""
        merged, levels, _ = self.run(patches)
        return merged, levels

    def run(
        self, patches: Patches, record: bool = False
    ) -> tuple[Float[Array, "N/m W"], Float[Array, "J N/m W"], Float[Array, "depth N D"] | None]:
        """As `__call__`; with `record` also the states after each block."""
        angles, mask = self.angles(patches), patches.frame[:, None] == patches.frame[None]

        def step(block: VisionBlock, x: Array, _: None) -> tuple[Array, Array | None]:
            x = block(x, angles, mask)
            return x, x if record else None

        x, levels, states, start = self.embed(patches), [], [], 0
        with jax.named_scope("vision"):
            mergers = zip(self.config.deepstack, self.deepstack_mergers, strict=True)
            for index, merger in sorted(mergers, key=lambda pair: pair[0]):  # the first block's level is added first
                x, state = scan_layers(self.blocks, step, x, start=start, stop=index + 1)
                levels.append(merger(x))
                states.append(state)
                start = index + 1
            if start < self.config.depth:
                x, state = scan_layers(self.blocks, step, x, start=start)
                states.append(state)
            merged = self.merger(x)
            stacked = jnp.stack(levels) if levels else jnp.zeros((0, *merged.shape), merged.dtype)
            return merged, stacked, jnp.concatenate(states) if record else None


def vision_leaves(ours: str, theirs: str, config: VisionConfig) -> dict[str, Leaf]:
    """Parameters of `VisionTower` at path `ours`, from tensors at prefix `theirs` (`model.visual.`)."""
    leaves = {
        f"{ours}patch_embed/kernel": Leaf((f"{theirs}patch_embed.proj.weight",), _flat_patch),
        f"{ours}patch_embed/bias": Leaf((f"{theirs}patch_embed.proj.bias",)),
        f"{ours}pos_embed": Leaf((f"{theirs}pos_embed.weight",)),
    }
    block = f"{theirs}blocks.{{}}"
    for name in ("norm1", "norm2"):
        leaves |= norm_leaves(f"{ours}blocks/{name}", f"{block}.{name}", config.depth)
    for part, name in (
        ("qkv", "attn.qkv"), ("proj", "attn.proj"), ("linear_fc1", "mlp.linear_fc1"), ("linear_fc2", "mlp.linear_fc2"),
    ):  # fmt: skip
        leaves |= linear_leaves(f"{ours}blocks/{part}", f"{block}.{name}", layers=config.depth)
    mergers = {f"{ours}merger": f"{theirs}merger"}
    for level in range(len(config.deepstack)):
        mergers[f"{ours}deepstack_mergers/{level}"] = f"{theirs}deepstack_merger_list.{level}"
    for own, upstream in mergers.items():
        leaves |= norm_leaves(f"{own}/norm", f"{upstream}.norm")
        for name in ("linear_fc1", "linear_fc2"):
            leaves |= linear_leaves(f"{own}/{name}", f"{upstream}.{name}")
    return leaves


def _flat_patch(tensor: np.ndarray) -> np.ndarray:
    """PyTorch's [D, 3, frames, patch, patch] weight as a kernel [patch values, D]."""
    return tensor.reshape(tensor.shape[0], -1).T
