"""Sizes and words of `pocket:sparse`: Qwen3-VL-MoE's architecture at 0.9 million parameters."""

from __future__ import annotations

from ports.common.layers.moe_decoder import MoEDecoderConfig
from ports.common.qwen_vl.config import QwenVLConfig, VisionConfig
from ports.pocket.questions import vocabulary
from ports.pocket.tokenizer import END, Tokenizer

PATCH, MERGE = 12, 2  # a merged block of patches is a cell of the grid: 24 x 24 pixels


def sparse_config() -> QwenVLConfig:
    """The config of the shipped weights: 4 layers, 16 experts, 2 of them a token, 16 tokens an image."""
    size = Tokenizer(vocabulary()).size
    decoder = MoEDecoderConfig(
        vocab_size=size + 2, width=64, layers=4, heads=4, kv_heads=2, head_width=16, experts=16, top_k=2, hidden=48,
        theta=1e4, sections=(4, 2, 2), max_positions=128,
    )  # fmt: skip
    vision = VisionConfig(
        depth=2, width=64, heads=4, hidden=128, out=64, patch=PATCH, frames=1, merge=MERGE, positions=64,
        deepstack=(0,),
    )  # fmt: skip
    return QwenVLConfig(decoder, vision, image_token=size, video_token=size + 1, stop_ids=(END,))
