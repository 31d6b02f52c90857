"""Parameters of Qwen3-VL-MoE from checkpoints: fused or per-expert names, BF16 or block-wise FP8."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ports.common.checkpoint.convert import Converter
from ports.common.checkpoint.mapping import Leaf
from ports.common.moe_lm.chat import CHAT_FILES
from ports.common.moe_lm.config import text_fields
from ports.common.moe_lm.params import NESTED, adapted, dequantized, moe_decoder_leaves, tied_head
from ports.common.qwen_vl.config import QwenVLConfig
from ports.common.qwen_vl.model import abstract
from ports.common.qwen_vl.params import SIDE_FILES, check_template, model_fields, read_config
from ports.common.qwen_vl.vision import vision_leaves
from ports.qwen3_vl_moe.config import text_config

FIELDS = model_fields("qwen3_vl_moe", text_fields("config.json", {}, ("rope_scaling", "norm_topk_prob")))


def leaves(config: QwenVLConfig) -> dict[str, Leaf]:
    """The leaf that makes each parameter of upstream's tensors, by path."""
    decoder = moe_decoder_leaves("decoder/", NESTED, "", config.decoder, config.separate_experts)
    return dequantized(decoder | vision_leaves("visual/", "model.visual.", config.vision), config)


def config_from(folder: Path) -> QwenVLConfig:
    """The config of a checkpoint's folder.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    return read_config(folder, FIELDS, text_config)


def adapt(config: QwenVLConfig, names: Collection[str]) -> QwenVLConfig:
    """The config for a checkpoint with tensors of these names."""
    return adapted(config, names, leaves)


converter = Converter(
    port="qwen3_vl_moe",
    config_from=config_from,
    leaves=leaves,
    ignored=lambda config: (r".*\.rotary_emb\.inv_freq",),
    abstract_params=lambda config: abstract(config)[1],
    side_files=SIDE_FILES,
    adapt=adapt,
    check_files=check_template,
    tied=lambda config: tied_head(config.decoder, NESTED),
    copied=CHAT_FILES,
    known={"config.json": FIELDS},
    hub="Qwen/Qwen3-VL-30B-A3B-Instruct",
)
