"""Parameters of Qwen3-VL-MoE from checkpoints: fused or per-expert names, BF16 or block-wise FP8."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from ports.common.checkpoint.convert import CONFIG_FILE, TOKENIZER_JSON, Converter, SideFile
from ports.common.checkpoint.mapping import Leaf
from ports.common.configs import ConfigFields, read_json
from ports.common.moe_lm.chat import CHAT_FILES, read_chat
from ports.common.moe_lm.config import text_fields
from ports.common.moe_lm.params import SCALE, from_fp8, moe_decoder_leaves
from ports.common.moe_lm.port import has_separate_experts
from ports.qwen3_vl_moe.config import Qwen3VLMoEConfig, text_config, vision_config, vision_fields
from ports.qwen3_vl_moe.model import abstract
from ports.qwen3_vl_moe.vision import vision_leaves
from r2t2_jax.errors import R2T2Error

TIED = "tie_word_embeddings"  # the model's own field counts, not that of text_config
TEXT = text_fields("config.json", {}, ("rope_scaling", "norm_topk_prob"))
FIELDS = ConfigFields(
    "config.json",
    taken={"text_config": "text", "vision_config": "vision", "image_token_id": "image", "video_token_id": "video"},
    fixed={"model_type": ("qwen3_vl_moe",), TIED: (False,)},
    inert=("vision_start_token_id", "vision_end_token_id", "quantization_config"),
    nested={
        "text_config": dataclasses.replace(TEXT, fixed={name: TEXT.fixed[name] for name in TEXT.fixed if name != TIED}),
        "vision_config": vision_fields("config.json"),
    },
)
PREPROCESSOR = SideFile(("preprocessor_config.json",), "how images are resized", "it belongs to the checkpoint")


def leaves(config: Qwen3VLMoEConfig) -> dict[str, Leaf]:
    """How every parameter is made of upstream's tensors."""
    decoder = moe_decoder_leaves("decoder/", "model.language_model.", "", config.decoder, config.separate_experts)
    mapping = decoder | vision_leaves("visual/", "model.visual.", config.vision)
    return mapping | {path: from_fp8(mapping[path], config.fp8_block) for path in config.fp8_leaves}


def config_from(folder: Path) -> Qwen3VLMoEConfig:
    """The config of a checkpoint's folder.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    file = folder / "config.json"
    described = read_json(file)
    taken = FIELDS.read(described)
    text, vision = text_config(taken["text"], str(file)), vision_config(taken["vision"], str(file))
    if vision.out != text.width:
        raise R2T2Error(f"{file}: out_hidden_size {vision.out} of the tower is not the decoder's width {text.width}")
    block = _fp8_block(described.get("quantization_config"), str(file))
    stops = read_chat(folder).stop_ids
    return Qwen3VLMoEConfig(text, vision, taken["image"], taken["video"], stops, fp8_block=block)


def _fp8_block(described: dict | None, where: str) -> int:
    if not described:
        return 0
    size = described.get("weight_block_size")
    if described.get("quant_method") != "fp8" or not size or size[0] != size[1]:
        raise R2T2Error(f"{where}: quantization_config: only FP8 in square blocks is read; convert the BF16 model")
    return int(size[0])


def adapt(config: Qwen3VLMoEConfig, names: Collection[str]) -> Qwen3VLMoEConfig:
    """The config for a checkpoint with tensors of these names."""
    config = dataclasses.replace(config, separate_experts=has_separate_experts(names))
    scaled = tuple(path for path, leaf in leaves(config).items() if f"{leaf.names[0]}{SCALE}" in names)
    if scaled and not config.fp8_block:
        raise R2T2Error("the checkpoint has scales of FP8 blocks, and its config.json no quantization_config")
    return dataclasses.replace(config, fp8_leaves=scaled)


converter = Converter(
    port="qwen3_vl_moe",
    config_from=config_from,
    leaves=leaves,
    ignored=lambda config: (r".*\.rotary_emb\.inv_freq",),
    abstract_params=lambda config: abstract(config)[1],
    side_files=(CONFIG_FILE, TOKENIZER_JSON, PREPROCESSOR),
    adapt=adapt,
    copied=CHAT_FILES,
    known={"config.json": FIELDS},
)
