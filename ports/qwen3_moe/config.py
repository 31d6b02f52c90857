"""Config of Qwen3-MoE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ports.common.layers.moe_decoder import MoEDecoderConfig
from ports.common.moe_lm.config import decoder_config

DEFAULTS = {"norm_topk_prob": False}  # the library's default; the releases say true


def from_upstream(described: Mapping[str, Any], where: str = "config.json") -> MoEDecoderConfig:
    """The config from upstream's fields.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    return decoder_config(described, where, DEFAULTS, qk_norm="head")


def full_30b_a3b() -> MoEDecoderConfig:
    """Qwen3-30B-A3B."""
    return MoEDecoderConfig(
        vocab_size=151_936, width=2048, layers=48, heads=32, kv_heads=4, head_width=128, experts=128, top_k=8,
        hidden=768, theta=1e6, max_positions=40_960, dtype="bfloat16",
    )  # fmt: skip


def full_235b_a22b() -> MoEDecoderConfig:
    """Qwen3-235B-A22B."""
    return MoEDecoderConfig(
        vocab_size=151_936, width=4096, layers=94, heads=64, kv_heads=4, head_width=128, experts=128, top_k=8,
        hidden=1536, theta=1e6, max_positions=40_960, dtype="bfloat16",
    )  # fmt: skip


def tiny() -> MoEDecoderConfig:
    """A config for tests."""
    return MoEDecoderConfig(97, 16, 3, 4, 2, 6, experts=6, top_k=2, hidden=10, theta=1e4, max_positions=256)
