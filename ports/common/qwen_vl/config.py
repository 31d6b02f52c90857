"""Configs of the multimodal Qwen models: vision tower, and the tokens that stand for images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ports.common.configs import ConfigFields, checked_value
from ports.common.layers.moe_decoder import MoEDecoderConfig
from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower.

    Args:
        depth, width, heads, hidden: of its blocks.
        out: width of the decoder.
        patch, frames, merge: sides of a patch in pixels, in frames, and of a merged block in patches.
        positions: number of learned positions, a square.
        deepstack: the blocks whose outputs are added to the states after the first layers of the decoder.
        eps: of the layer norms, which upstream's config does not hold.
    """

    depth: int
    width: int
    heads: int
    hidden: int
    out: int
    patch: int = 16
    frames: int = 2
    merge: int = 2
    positions: int = 2304
    deepstack: tuple[int, ...] = ()
    eps: float = 1e-6
    dtype: str = "float32"

    @property
    def side(self) -> int:
        """Side of the square of learned positions."""
        return round(self.positions**0.5)

    @property
    def patch_values(self) -> int:
        """Values of one patch: channels, frames, rows and columns."""
        return 3 * self.frames * self.patch**2


@dataclass(frozen=True)
class QwenVLConfig:
    """Tower, decoder, and the tokens that stand for images.

    Args:
        decoder, vision: sizes.
        image_token, video_token: ids of the tokens that a merged block of patches replaces.
        stop_ids: tokens that end a turn.
        separate_experts: the checkpoint has one tensor per expert and matrix.
        fp8_block: side of the blocks of an FP8 checkpoint; 0 for other checkpoints.
        fp8_leaves: paths of the parameters that it quantizes.
    """

    decoder: MoEDecoderConfig
    vision: VisionConfig
    image_token: int
    video_token: int
    stop_ids: tuple[int, ...]
    separate_experts: bool = False
    fp8_block: int = 0
    fp8_leaves: tuple[str, ...] = ()


NO_DEFAULTS: Mapping[str, Any] = {}
VISION = {
    "depth": "depth",
    "hidden_size": "width",
    "num_heads": "heads",
    "intermediate_size": "hidden",
    "out_hidden_size": "out",
    "patch_size": "patch",
    "temporal_patch_size": "frames",
    "spatial_merge_size": "merge",
    "num_position_embeddings": "positions",
    "deepstack_visual_indexes": "deepstack",
}


def mrope_sections(rope: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """The numbers of frequencies of time, height and width in M-RoPE.

    Raises:
        R2T2Error: `mrope_section` is missing or is no list of three whole numbers.
    """
    sections = checked_value(where, "mrope_section", rope.get("mrope_section"), list[int] | None)
    if sections is None or len(sections) != 3 or min(sections) < 0:
        raise R2T2Error(f"{where}: mrope_section must have three whole numbers, not {sections}")
    return tuple(sections)


def vision_fields(where: str, defaults: Mapping[str, Any] = NO_DEFAULTS) -> ConfigFields:
    """A port's knowledge of the fields of `vision_config`; `defaults` as in `ConfigFields`."""
    return ConfigFields(
        where,
        taken=VISION,
        defaults=defaults,
        fixed={"hidden_act": ("gelu_pytorch_tanh",), "in_channels": (3,)},
        inert=("model_type",),
    )


def vision_config(
    described: Mapping[str, Any], where: str = "config.json", defaults: Mapping[str, Any] = NO_DEFAULTS
) -> VisionConfig:
    """The tower's config from `vision_config`; `defaults` as in `ConfigFields`.

    Raises:
        R2T2Error: a field is missing, is no size, has a value that is not implemented, or does not fit the others.
    """
    taken = vision_fields(where, defaults).read(described)
    levels = checked_value(where, "deepstack_visual_indexes", taken.pop("deepstack"), list[int] | None)
    sizes = {ours: checked_value(where, name, taken[ours], int) for name, ours in VISION.items() if ours in taken}
    config = VisionConfig(**sizes, deepstack=tuple(levels or ()))
    if config.width % (4 * config.heads):
        raise R2T2Error(
            f"{where}: hidden_size {config.width} of the tower is no multiple of 4 x num_heads {config.heads}"
        )
    if config.side**2 != config.positions:
        raise R2T2Error(f"{where}: num_position_embeddings {config.positions} is not a square")
    if len(set(config.deepstack)) < len(config.deepstack) or not set(config.deepstack) <= set(range(config.depth)):
        raise R2T2Error(
            f"{where}: deepstack_visual_indexes {levels} must be different blocks of the tower, from 0 to "
            f"{config.depth - 1}"
        )
    return config
