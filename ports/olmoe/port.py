"""The OLMoE port: converted weights as a `Port`, shapes, and conversion."""

from ports.common.moe_lm.port import Family
from ports.olmoe.config import from_upstream, full_1b_7b, tiny

FAMILY = Family("olmoe", from_upstream, {"1b-7b": full_1b_7b, "tiny": tiny}, hub="allenai/OLMoE-1B-7B-0924")
load, shapes, converter = FAMILY.load, FAMILY.shapes, FAMILY.converter()
