"""The Qwen3.5-MoE port: converted weights as a `Port`, shapes, and conversion."""

from ports.common.qwen_vl.port import VLFamily
from ports.qwen3_5_moe.config import Qwen35MoEConfig, full_35b_a3b, tiny
from ports.qwen3_5_moe.params import RULES, TEXT, converter

__all__ = ["converter", "load", "shapes"]

FAMILY = VLFamily("qwen3_5_moe", Qwen35MoEConfig, {"35b-a3b": full_35b_a3b, "tiny": tiny}, RULES, TEXT)
load, shapes = FAMILY.load, FAMILY.shapes
