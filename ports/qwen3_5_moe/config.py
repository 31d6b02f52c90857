"""Config of Qwen3.5-MoE, from upstream's `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ports.common.configs import ConfigFields, checked_value, renamed
from ports.common.layers.hybrid_decoder import HybridDecoderConfig
from ports.common.moe_lm.config import FIXED as TEXT_FIXED
from ports.common.moe_lm.config import INERT, TAKEN, UNTIED, check_sizes
from ports.common.moe_lm.port import LMConfig
from ports.common.qwen_vl.config import QwenVLConfig, VisionConfig, mrope_sections
from r2t2_jax.errors import R2T2Error

LINEAR, FULL = "linear_attention", "full_attention"
HYBRID = {
    "shared_expert_intermediate_size": "shared_hidden",
    "linear_num_key_heads": "key_heads",
    "linear_num_value_heads": "value_heads",
    "linear_key_head_dim": "key_width",
    "linear_value_head_dim": "value_width",
    "linear_conv_kernel_dim": "kernel",
}
READ = ("layer_types", "full_attention_interval", "partial_rotary_factor")  # by code below
MTP = ("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")  # of the head for speculative decoding, left out


@dataclass(frozen=True)
class Qwen35MoEConfig(QwenVLConfig):
    """As `QwenVLConfig`, with a hybrid decoder."""

    decoder: HybridDecoderConfig


@dataclass(frozen=True)
class Qwen35MoETextConfig(LMConfig):
    """As `LMConfig`, with a hybrid decoder."""

    decoder: HybridDecoderConfig


def text_fields(where: str, inert: tuple[str, ...] = ()) -> ConfigFields:
    """The port's knowledge of the fields of `text_config`, or of a text model's `config.json`; `inert` adds fields."""
    return ConfigFields(
        where,
        taken={name: ours for name, ours in TAKEN.items() if ours != "normalize"} | HYBRID,
        defaults=UNTIED,
        fixed={**TEXT_FIXED, "attn_output_gate": (True,), "mamba_ssm_dtype": ("float32",), "norm_topk_prob": (True,)},
        inert=(*INERT, *READ, *MTP, *inert),
    )


def text_config(described: Mapping[str, Any], where: str = "config.json") -> HybridDecoderConfig:
    """The decoder's config from `text_config`; the weights of the chosen experts are always divided by their sum.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    fields = dict(described)
    rope = _rotary(fields, where)
    if not rope.get("mrope_interleaved", False):
        raise R2T2Error(f"{where}: only an interleaved M-RoPE of type default is implemented, not {rope}")
    fields.pop("tie_word_embeddings", None)  # the model's own field counts
    decoder, sections = _decoder_config(fields, rope, where), mrope_sections(rope, where)
    if sum(sections) != decoder.rotated // 2:
        raise R2T2Error(
            f"{where}: mrope_section {list(sections)} does not cover {decoder.rotated} rotated entries of a head"
        )
    return replace(decoder, sections=sections)


def text_model_config(described: Mapping[str, Any], where: str = "config.json") -> HybridDecoderConfig:
    """The decoder's config from the `config.json` of a model without a vision tower.

    Its tokens have one position each, so the sections of M-RoPE do not matter.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    return _decoder_config(described, _rotary(described, where), where)


def _rotary(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The `rope_parameters`; raises an `R2T2Error` for another type than `default`."""
    rope = checked_value(where, "rope_parameters", fields.get("rope_parameters"), dict[str, Any] | None) or {}
    if rope.get("rope_type", "default") != "default":
        raise R2T2Error(f"{where}: only an interleaved M-RoPE of type default is implemented, not {rope}")
    return rope


def _decoder_config(described: Mapping[str, Any], rope: Mapping[str, Any], where: str) -> HybridDecoderConfig:
    """The decoder's config, with one axis of positions."""
    fields = dict(described)
    renamed(fields, "rope_theta", rope.get("rope_theta", fields.get("rope_theta")), where)
    taken = text_fields(where).read(fields, HybridDecoderConfig)
    full = _full_layers(fields, taken["layers"], where)
    share = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor", 0.25))
    rotated = int(taken["head_width"] * checked_value(where, "partial_rotary_factor", share, float))
    if taken["value_heads"] % taken["key_heads"]:
        raise R2T2Error(
            f"{where}: linear_num_value_heads {taken['value_heads']} is no multiple of linear_num_key_heads "
            f"{taken['key_heads']}"
        )
    config = HybridDecoderConfig(**taken, full=full, rotated=rotated)
    check_sizes(where, config)
    return config


def _full_layers(fields: Mapping[str, Any], layers: int, where: str) -> tuple[int, ...]:
    """The layers with full attention, by `layer_types` or else every `full_attention_interval`-th."""
    interval = checked_value(where, "full_attention_interval", fields.get("full_attention_interval", 4), int)
    kinds = checked_value(where, "layer_types", fields.get("layer_types"), list[str] | None)
    kinds = kinds or [FULL if i % interval == interval - 1 else LINEAR for i in range(layers)]
    if len(kinds) != layers or set(kinds) != {LINEAR, FULL}:
        raise R2T2Error(f"{where}: layer_types must name {layers} layers, some {LINEAR} and some {FULL}")
    return tuple(i for i, kind in enumerate(kinds) if kind == FULL)


def full_35b_a3b() -> Qwen35MoEConfig:
    """Qwen3.5-35B-A3B and Qwen3.6-35B-A3B."""
    decoder = HybridDecoderConfig(
        vocab_size=248_320, width=2048, layers=40, heads=16, kv_heads=2, head_width=256, experts=256, top_k=8,
        hidden=512, theta=1e7, sections=(11, 11, 10), max_positions=262_144, dtype="bfloat16",
        full=tuple(range(3, 40, 4)), rotated=64, shared_hidden=512, key_heads=16, value_heads=32, key_width=128,
        value_width=128,
    )  # fmt: skip
    vision = VisionConfig(depth=27, width=1152, heads=16, hidden=4304, out=2048, dtype="bfloat16")
    return Qwen35MoEConfig(decoder, vision, 248_056, 248_057, (248_046, 248_044))


def tiny() -> Qwen35MoEConfig:
    """A config for tests."""
    decoder = HybridDecoderConfig(
        112, 20, 3, 4, 2, 12, experts=6, top_k=2, hidden=14, theta=1e4, sections=(1, 1, 1), max_positions=4096,
        full=(1,), rotated=6, shared_hidden=18, key_heads=2, value_heads=4, key_width=7, value_width=9,
    )  # fmt: skip
    vision = VisionConfig(3, 24, 2, 40, 20, patch=4, positions=36)
    return Qwen35MoEConfig(decoder, vision, 101, 102, (98, 96))
