"""The Qwen3-MoE port: converted weights as a `Port`, shapes, and conversion."""

from ports.common.moe_lm.port import Family
from ports.qwen3_moe.config import from_upstream, full_30b_a3b, full_235b_a22b, tiny

FAMILY = Family(
    "qwen3_moe",
    from_upstream,
    {"30b-a3b": full_30b_a3b, "235b-a22b": full_235b_a22b, "tiny": tiny},
    hub="Qwen/Qwen3-30B-A3B",
)  # fmt: skip
load, shapes, converter = FAMILY.load, FAMILY.shapes, FAMILY.converter()
