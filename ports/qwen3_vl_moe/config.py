"""Config of Qwen3-VL-MoE, from upstream's `config.json` in either spelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ports.common.configs import ConfigFields
from ports.common.layers.moe_decoder import MoEDecoderConfig
from ports.common.moe_lm.config import decoder_config
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
    deepstack: tuple[int, ...] = (8, 16, 24)
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
class Qwen3VLMoEConfig:
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


def text_config(described: Mapping[str, Any], where: str = "config.json") -> MoEDecoderConfig:
    """The decoder's config from `text_config`; the weights of the chosen experts are always divided by their sum.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    fields = dict(described)
    rope = {**(fields.pop("rope_scaling", None) or {}), **(fields.pop("rope_parameters", None) or {})}
    if not rope.get("mrope_interleaved", False) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise R2T2Error(f"{where}: only an interleaved M-RoPE of type default is implemented, not {rope}")
    if fields.pop("norm_topk_prob", True) is not True:
        raise R2T2Error(f"{where}: norm_topk_prob = False, only True is implemented")
    fields["rope_theta"] = fields.get("rope_theta", rope.get("rope_theta"))
    fields.pop("tie_word_embeddings", None)  # the model's own field counts
    sections = tuple(rope["mrope_section"])
    return decoder_config(fields, where, {"norm_topk_prob": True}, qk_norm="head", sections=sections)


def vision_fields(where: str) -> ConfigFields:
    """What the port knows about the fields of `vision_config`."""
    return ConfigFields(
        where, taken=VISION, fixed={"hidden_act": ("gelu_pytorch_tanh",), "in_channels": (3,)}, inert=("model_type",)
    )


def vision_config(described: Mapping[str, Any], where: str = "config.json") -> VisionConfig:
    """The tower's config from `vision_config`.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    taken = vision_fields(where).read(described)
    return VisionConfig(**{**taken, "deepstack": tuple(taken["deepstack"])})


def full_30b_a3b() -> Qwen3VLMoEConfig:
    """Qwen3-VL-30B-A3B."""
    decoder = MoEDecoderConfig(
        vocab_size=151_936, width=2048, layers=48, heads=32, kv_heads=4, head_width=128, experts=128, top_k=8,
        hidden=768, theta=5e6, sections=(24, 20, 20), max_positions=262_144, dtype="bfloat16",
    )  # fmt: skip
    return _full(decoder)


def full_235b_a22b() -> Qwen3VLMoEConfig:
    """Qwen3-VL-235B-A22B."""
    decoder = MoEDecoderConfig(
        vocab_size=151_936, width=4096, layers=94, heads=64, kv_heads=4, head_width=128, experts=128, top_k=8,
        hidden=1536, theta=5e6, sections=(24, 20, 20), max_positions=262_144, dtype="bfloat16",
    )  # fmt: skip
    return _full(decoder)


def _full(decoder: MoEDecoderConfig) -> Qwen3VLMoEConfig:
    vision = VisionConfig(depth=27, width=1152, heads=16, hidden=4304, out=decoder.width, dtype=decoder.dtype)
    return Qwen3VLMoEConfig(decoder, vision, 151_655, 151_656, (151_645, 151_643))


def tiny() -> Qwen3VLMoEConfig:
    """A config for tests."""
    decoder = MoEDecoderConfig(
        112, 20, 4, 4, 2, 6, experts=6, top_k=2, hidden=14, theta=1e4, sections=(1, 1, 1), max_positions=4096
    )  # fmt: skip
    vision = VisionConfig(3, 24, 2, 40, 20, patch=4, positions=36, deepstack=(0, 1))
    return Qwen3VLMoEConfig(decoder, vision, 101, 102, (98, 96))
