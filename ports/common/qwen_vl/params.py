"""Conversion that the multimodal Qwen ports share: fields of `config.json`, and the config that they describe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ports.common.checkpoint.convert import CONFIG_FILE, TOKENIZER_JSON, SideFile
from ports.common.configs import ConfigFields, checked_value, read_json
from ports.common.layers.moe_decoder import MoEDecoderConfig
from ports.common.moe_lm.chat import TEMPLATES, read_chat, template_in
from ports.common.moe_lm.config import UNTIED
from ports.common.moe_lm.params import fp8_block
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
    return ConfigFields(
        "config.json",
        taken={
            "text_config": "text",
            "vision_config": "vision",
            "image_token_id": "image",
            "video_token_id": "video",
            TIED: "tied",
        },
        defaults=UNTIED,
        fixed={"model_type": (model_type,)},
        inert=("vision_start_token_id", "vision_end_token_id", "quantization_config", *inert),
        nested={"text_config": text, "vision_config": vision_fields("config.json", vision_defaults)},
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
    text = dataclasses.replace(text, tied=checked_value(str(file), TIED, taken["tied"], bool))
    if vision.out != text.width:
        raise R2T2Error(f"{file}: out_hidden_size {vision.out} of the tower is not the decoder's width {text.width}")
    if len(vision.deepstack) > text.layers:
        raise R2T2Error(f"{file}: deepstack_visual_indexes has more entries than the decoder has layers, {text.layers}")
    block = fp8_block(described.get("quantization_config"), str(file))
    stops = read_chat(folder).stop_ids
    image, video = (checked_value(str(file), f"{name}_token_id", taken[name], int) for name in ("image", "video"))
    return kind(text, vision, image, video, stops, fp8_block=block)


def check_template(config: Any, files: Mapping[str, Path]) -> None:
    """Refuse a model with a vision tower whose tokenizer's files have no chat template, which places the images.

    Raises:
        R2T2Error: there is none.
    """
    if isinstance(config, QwenVLConfig) and template_in(files) is None:
        raise R2T2Error(
            "the checkpoint lacks a chat template, which places images in a prompt: it is in "
            f"{', '.join(TEMPLATES[:-1])} or in the field chat_template of {TEMPLATES[-1]}; put it into the folder"
        )
