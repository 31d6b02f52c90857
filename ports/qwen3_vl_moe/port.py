"""The Qwen3-VL-MoE port: converted weights as a `Port`, shapes, and conversion."""

from ports.common.qwen_vl.config import QwenVLConfig
from ports.common.qwen_vl.port import VLFamily
from ports.qwen3_vl_moe.config import full_30b_a3b, full_235b_a22b, tiny
from ports.qwen3_vl_moe.params import converter

__all__ = ["converter", "load", "shapes"]

FAMILY = VLFamily(
    "qwen3_vl_moe", QwenVLConfig, {"30b-a3b": full_30b_a3b, "235b-a22b": full_235b_a22b, "tiny": tiny}
)  # fmt: skip
load, shapes = FAMILY.load, FAMILY.shapes
