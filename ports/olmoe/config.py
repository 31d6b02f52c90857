"""Config of OLMoE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ports.common.layers.moe_decoder import MoEDecoderConfig
from ports.common.moe_lm.config import decoder_config

DEFAULTS = {"norm_topk_prob": False, "rope_theta": 10_000.0}  # the library's


def from_upstream(described: Mapping[str, Any], where: str = "config.json") -> MoEDecoderConfig:
    """The config from upstream's fields, which give an expert's width as `intermediate_size`.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    fields = {"moe_intermediate_size": described.get("intermediate_size"), **described}
    return decoder_config(fields, where, DEFAULTS, qk_norm="whole")


def full_1b_7b() -> MoEDecoderConfig:
    """OLMoE-1B-7B."""
    return MoEDecoderConfig(
        vocab_size=50_304, width=2048, layers=16, heads=16, kv_heads=16, head_width=128, experts=64, top_k=8,
        hidden=1024, theta=1e4, eps=1e-5, normalize=False, qk_norm="whole", dtype="bfloat16",
    )  # fmt: skip


def tiny() -> MoEDecoderConfig:
    """A config for tests."""
    return MoEDecoderConfig(
        97, 16, 3, 4, 4, 4, experts=6, top_k=2, hidden=10, theta=1e4, eps=1e-5, normalize=False, qk_norm="whole",
        max_positions=256,
    )  # fmt: skip
