"""Conversion that the multimodal Qwen ports share: fields of `config.json`, FP8 checkpoints, spellings of experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ports.common.checkpoint.convert import CONFIG_FILE, TOKENIZER_JSON, SideFile
from ports.common.checkpoint.mapping import Leaf
from ports.common.configs import ConfigFields, checked_value, read_json
from ports.common.layers.moe_decoder import MoEDecoderConfig
from ports.common.moe_lm.chat import read_chat
from ports.common.moe_lm.params import SCALE
from ports.common.moe_lm.port import has_separate_experts
from ports.common.qwen_vl.config import NO_DEFAULTS, QwenVLConfig, vision_config, vision_fields
from r2t2_jax.errors import R2T2Error

TIED = "tie_word_embeddings"  # the model's own field counts, not that of text_config
PREPROCESSOR = SideFile(("preprocessor_config.json",), "how images are resized", "it belongs to the checkpoint")
SIDE_FILES = (CONFIG_FILE, TOKENIZER_JSON, PREPROCESSOR)


def model_fields(
    model_type: str,
    text: ConfigFields,
    vision_defaults: Mapping[str, Any] = NO_DEFAULTS,
    inert: tuple[str, ...] = (),
) -> ConfigFields:
    """A port's knowledge of the fields of its `config.json`, given that of `text_config`."""
    own = {name: values for name, values in text.fixed.items() if name != TIED}
    return ConfigFields(
        "config.json",
        taken={"text_config": "text", "vision_config": "vision", "image_token_id": "image", "video_token_id": "video"},
        fixed={"model_type": (model_type,), TIED: (False,)},
        inert=("vision_start_token_id", "vision_end_token_id", "quantization_config", *inert),
        nested={
            "text_config": dataclasses.replace(text, fixed=own),
            "vision_config": vision_fields("config.json", vision_defaults),
        },
    )


def read_config(
    folder: Path,
    fields: ConfigFields,
    text_config: Callable[[Mapping[str, Any], str], MoEDecoderConfig],
    kind: type[QwenVLConfig] = QwenVLConfig,
) -> QwenVLConfig:
    """The config of a checkpoint's folder, as `kind`.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    file = folder / "config.json"
    described = read_json(file)
    taken = fields.read(described)
    defaults = fields.nested["vision_config"].defaults
    described_text = checked_value(str(file), "text_config", taken["text"], dict[str, Any])
    text, vision = text_config(described_text, str(file)), vision_config(taken["vision"], str(file), defaults)
    if vision.out != text.width:
        raise R2T2Error(f"{file}: out_hidden_size {vision.out} of the tower is not the decoder's width {text.width}")
    block = fp8_block(described.get("quantization_config"), str(file))
    stops = read_chat(folder).stop_ids
    image, video = (checked_value(str(file), f"{name}_token_id", taken[name], int) for name in ("image", "video"))
    return kind(text, vision, image, video, stops, fp8_block=block)


def fp8_block(described: Any, where: str) -> int:
    """The side of the blocks of an FP8 checkpoint; 0 for a checkpoint that is not quantized.

    Raises:
        R2T2Error: it is quantized in another way.
    """
    if not described:
        return 0
    fields = checked_value(where, "quantization_config", described, dict[str, Any])
    size = fields.get("weight_block_size")
    square = isinstance(size, list) and len(size) == 2 and size[0] == size[1]
    if fields.get("quant_method") != "fp8" or not square:
        raise R2T2Error(f"{where}: quantization_config: only FP8 in square blocks is read; convert the BF16 model")
    return checked_value(where, "weight_block_size", size[0], int)


def adapted(
    config: QwenVLConfig, names: Collection[str], leaves: Callable[[QwenVLConfig], Mapping[str, Leaf]]
) -> QwenVLConfig:
    """The config for a checkpoint with tensors of these names.

    Raises:
        R2T2Error: there are scales of FP8 blocks, and the config does not state the blocks.
    """
    config = dataclasses.replace(config, separate_experts=has_separate_experts(names))
    scaled = tuple(path for path, leaf in leaves(config).items() if f"{leaf.names[0]}{SCALE}" in names)
    if scaled and not config.fp8_block:
        raise R2T2Error("the checkpoint has scales of FP8 blocks, and its config.json no quantization_config")
    return dataclasses.replace(config, fp8_leaves=scaled)
