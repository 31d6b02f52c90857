"""Parameters of Qwen3-VL-MoE from checkpoints: fused or per-expert names, BF16 or block-wise FP8."""

from __future__ import annotations

from ports.common.checkpoint.mapping import Leaf
from ports.common.moe_lm.params import moe_decoder_leaves
from ports.qwen3_vl_moe.config import Qwen3VLMoEConfig
from ports.qwen3_vl_moe.vision import vision_leaves


def leaves(config: Qwen3VLMoEConfig) -> dict[str, Leaf]:
    """How every parameter is made of upstream's tensors."""
    decoder = moe_decoder_leaves("decoder/", "model.language_model.", "", config.decoder, config.separate_experts)
    return decoder | vision_leaves("visual/", "model.visual.", config.vision)
