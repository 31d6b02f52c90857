"""Config of Qwen3-VL-MoE, from upstream's `config.json` in either spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ports.common.configs import checked_value, renamed
from ports.common.layers.moe_decoder import MoEDecoderConfig
from ports.common.moe_lm.config import decoder_config
from ports.common.qwen_vl.config import QwenVLConfig, VisionConfig, mrope_sections
from r2t2_jax.errors import R2T2Error


def text_config(described: Mapping[str, Any], where: str = "config.json") -> MoEDecoderConfig:
    """The decoder's config from `text_config`; the weights of the chosen experts are always divided by their sum.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    fields = dict(described)
    spellings = [
        checked_value(where, name, fields.pop(name, None), dict[str, Any] | None)
        for name in ("rope_scaling", "rope_parameters")
    ]
    rope: dict[str, Any] = {}
    for spelling in spellings:
        for name, value in (spelling or {}).items():
            renamed(rope, name, value, where)
    if not rope.get("mrope_interleaved", False) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise R2T2Error(f"{where}: only an interleaved M-RoPE of type default is implemented, not {rope}")
    if fields.pop("norm_topk_prob", True) is not True:
        raise R2T2Error(f"{where}: norm_topk_prob = False, only True is implemented")
    renamed(fields, "rope_theta", rope.get("rope_theta", fields.get("rope_theta")), where)
    fields.pop("tie_word_embeddings", None)  # the model's own field counts
    sections = mrope_sections(rope, where)
    return decoder_config(fields, where, {"norm_topk_prob": True}, qk_norm="head", sections=sections)


def full_30b_a3b() -> QwenVLConfig:
    """Qwen3-VL-30B-A3B."""
    decoder = MoEDecoderConfig(
        vocab_size=151_936, width=2048, layers=48, heads=32, kv_heads=4, head_width=128, experts=128, top_k=8,
        hidden=768, theta=5e6, sections=(24, 20, 20), max_positions=262_144, dtype="bfloat16",
    )  # fmt: skip
    return _full(decoder)


def full_235b_a22b() -> QwenVLConfig:
    """Qwen3-VL-235B-A22B."""
    decoder = MoEDecoderConfig(
        vocab_size=151_936, width=4096, layers=94, heads=64, kv_heads=4, head_width=128, experts=128, top_k=8,
        hidden=1536, theta=5e6, sections=(24, 20, 20), max_positions=262_144, dtype="bfloat16",
    )  # fmt: skip
    return _full(decoder)


def _full(decoder: MoEDecoderConfig) -> QwenVLConfig:
    vision = VisionConfig(
        depth=27, width=1152, heads=16, hidden=4304, out=decoder.width, deepstack=(8, 16, 24), dtype=decoder.dtype
    )
    return QwenVLConfig(decoder, vision, 151_655, 151_656, (151_645, 151_643))


def tiny() -> QwenVLConfig:
    """A config for tests."""
    decoder = MoEDecoderConfig(
        112, 20, 4, 4, 2, 6, experts=6, top_k=2, hidden=14, theta=1e4, sections=(1, 1, 1), max_positions=4096
    )  # fmt: skip
    vision = VisionConfig(3, 24, 2, 40, 20, patch=4, positions=36, deepstack=(0, 1))
    return QwenVLConfig(decoder, vision, 101, 102, (98, 96))
