"""Reads an upstream checkpoint's folder: `config.json`, the preprocessor of an expert, tokenizer files.

`config.json` has no sizes of the towers, and the released one leaves some settings to upstream's defaults. Its field
`r2t2`, which is ours, may set any field of `MovaConfig`, nested ones included: other towers, or an open setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ports.common.checkpoint.convert import CONFIG_FILE, VOCABULARY, SideFile
from ports.common.configs import (
    ConfigFields,
    check_heads,
    checked_dtype,
    checked_value,
    read_json,
    transformers_4,
)
from ports.common.layers.decoder import DecoderConfig
from ports.mova.config import MovaConfig
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_files import read_text

OURS, TEXT_ENCODER = "r2t2", "bert-large-uncased"
FIELDS = ConfigFields(
    "config.json of MoVA",
    fixed={
        "attention_bias": (False,),
        "hidden_act": ("silu",),
        "image_aspect_ratio": ("pad",),
        "mlp_bias": (False,),
        "mm_patch_merge_type": ("flat",),
        "mm_projector_type": ("mov_adapter",),
        "mm_use_im_start_end": (False,),
        "mm_vision_select_feature": ("patch",),
        "rope_scaling": (None,),
        "tie_word_embeddings": (False,),
    },
    inert=(
        # read below
        "expert_channels", "head_dim", "hidden_size", "image_feat_size", "intermediate_size", "mm_hidden_size",
        "mm_projector_text_encoder", "mm_vision_select_layer", "num_attention_heads", "num_hidden_layers",
        "num_key_value_heads", "num_projector_layers", "num_routing_tokens", "rms_norm_eps", "rope_theta",
        "tokenizer_model_max_length", "topk_experts", "torch_dtype", "vocab_size", OURS,
        # training
        "freeze_backbone", "freeze_mm_mlp_adapter", "freeze_mm_vision_resampler", "ft_vision_tower",
        "ft_vision_tower_last_n_layer", "mm_projector_freeze_text_encoder", "mm_projector_lr", "mm_vision_tower_lr",
        "pretrain_mm_mlp_adapter", "topk", "tune_mm_mlp_adapter", "unfreeze_mm_vision_tower",
        # names of what the checkpoint contains, and settings of code that is not used with image_aspect_ratio "pad"
        "bos_token", "image_crop_resolution", "image_grid_pinpoints", "image_split_resolution", "max_sequence_length",
        "mm_use_im_patch_token", "mm_vision_tower", "tokenizer_padding_side", "use_mm_proj", "vision_expert",
        "vision_experts", "vision_tower",
    ),
)  # fmt: skip
VARY = ConfigFields(
    "preprocessor_config.json of Vary",
    fixed={
        "do_normalize": (True,), "do_rescale": (True,), "do_resize": (True,), "resample": (3,),
        "rescale_factor": (1 / 255,),
    },
    inert=(
        "_valid_processor_keys", "crop_size", "do_center_crop", "do_convert_rgb", "feature_extractor_type",
        "image_mean", "image_processor_type", "image_std", "processor_class", "size",
    ),
)  # fmt: skip
PREPROCESSOR = "experts/vary*/preprocessor_config.json"


def from_hf(described: Mapping[str, Any]) -> MovaConfig:
    """The config of an upstream `config.json`.

    Absent fields keep MoVA-8B's value. A vocabulary of less than 100,000 tokens means a Vicuna language model, which
    has another prompt and another end token.

    Raises:
        R2T2Error: it has values that the port does not implement.
    """
    FIELDS.read(described)
    described = transformers_4(described, FIELDS.where)
    _check_text_encoder(described.get("mm_projector_text_encoder", TEXT_ENCODER))
    base = MovaConfig.full_8b()
    if checked_value(FIELDS.where, "vocab_size", described.get("vocab_size", base.vocab_size), int) < 100_000:
        base = MovaConfig.vicuna_7b()
    config = _sized(base, described)
    if "mm_hidden_size" in described and described["mm_hidden_size"] != config.clip.width:
        raise R2T2Error(f"config.json: mm_hidden_size is {described['mm_hidden_size']}, CLIP has {config.clip.width}")
    return config


def _check_text_encoder(name: Any) -> None:
    """Refuse another BERT than bert-large-uncased; a name may have an owner or be a path, its weights are converted."""
    last = str(name).replace("\\", "/").rstrip("/").rpartition("/")[2]
    if not isinstance(name, str) or (last.startswith("bert-") and not last.startswith(TEXT_ENCODER)):
        raise R2T2Error(
            f"config.json of MoVA: mm_projector_text_encoder = {name!r}, only {TEXT_ENCODER!r} is implemented, "
            "which may be a path"
        )


def _sized(base: MovaConfig, described: Mapping[str, Any]) -> MovaConfig:
    def value_of(name: str, default: Any) -> Any:
        kind = tuple[int, ...] if isinstance(default, tuple) else type(default)
        return checked_value(FIELDS.where, name, described.get(name, default), kind)

    old = base.decoder
    heads, width = value_of("num_attention_heads", old.heads), value_of("hidden_size", old.width)
    kv_heads = value_of("num_key_value_heads", old.kv_heads)
    check_heads(FIELDS.where, heads if "head_dim" in described else width, heads, kv_heads)
    decoder = DecoderConfig(
        width,
        value_of("num_hidden_layers", old.layers),
        heads,
        kv_heads,
        value_of("head_dim", width // heads),
        value_of("intermediate_size", old.hidden),
        value_of("rope_theta", old.theta),
        value_of("rms_norm_eps", old.eps),
        remat=old.remat,
    )
    adapter = {
        "out": width,
        "grid": value_of("image_feat_size", base.adapter.grid),
        "blocks": value_of("num_projector_layers", base.adapter.blocks),
        "topk": value_of("topk_experts", base.adapter.topk),
        "expert_widths": value_of("expert_channels", base.adapter.expert_widths),
    }
    length = "tokenizer_model_max_length"
    changes: dict[str, Any] = {
        "vocab_size": value_of("vocab_size", base.vocab_size),
        "select_layer": _select_layer(described, base.select_layer),
        "routing_tokens": value_of("num_routing_tokens", base.routing_tokens),
        "max_length": checked_value(FIELDS.where, length, described.get(length), int | None),
        "decoder": vars(decoder),
        "adapter": adapter,
    }
    for name, value in checked_value(FIELDS.where, OURS, described.get(OURS, {}), dict).items():
        sizes = changes.get(name, {})
        changes[name] = {**sizes, **value} if isinstance(value, dict) and isinstance(sizes, dict) else value
    return base.updated(changes).in_dtype(checked_dtype(FIELDS.where, described.get("torch_dtype"), base.dtype))


def _select_layer(described: Mapping[str, Any], default: int) -> int:
    """The layer of CLIP whose output is used; a negative one counts from the end."""
    layer = described.get("mm_vision_select_layer", default)
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise R2T2Error(f"{FIELDS.where}: mm_vision_select_layer must be a whole number, not {layer!r}")
    return layer


def config_from(folder: Path) -> MovaConfig:
    """The config of a checkpoint's folder: `config.json`, and Vary's preprocessor where the folder has it.

    Raises:
        R2T2Error: a file is missing or damaged, or has a value that the port does not implement.
    """
    config = from_hf(read_json(folder / "config.json"))
    preprocessors = sorted(folder.glob(PREPROCESSOR))
    if preprocessors:
        normalization = read_json(preprocessors[0])
        VARY.read(normalization)
        mean, std = (
            checked_value(VARY.where, name, normalization.get(name), tuple[float, float, float] | None)
            for name in ("image_mean", "image_std")
        )
        if mean and std:
            config = replace(config, high_mean=mean, high_std=std)
    return config


def check_vocabulary(config: MovaConfig, files: Mapping[str, Path]) -> None:
    """Refuse a vocabulary with more words than the text encoder has embeddings.

    Raises:
        R2T2Error: the vocabulary is another model's, or cannot be read.
    """
    file = files[VOCABULARY]
    try:
        words = len(read_text(file).removesuffix("\n").split("\n"))
    except R2T2Error as error:
        raise R2T2Error(f"{file} cannot be read ({error})") from error
    if words > config.bert.vocab_size:
        raise R2T2Error(
            f"{file} has {words:,} words, the text encoder of this MoVA has {config.bert.vocab_size:,}; "
            f"it must be the vocab.txt of {TEXT_ENCODER}"
        )


SIDE_FILES = (
    CONFIG_FILE,
    SideFile(("tokenizer.json", "tokenizer.model"), "the tokenizer", "it belongs to the checkpoint"),
    SideFile(
        (VOCABULARY,),
        "the words of the text encoder, BERT, which the checkpoint does not contain",
        f"it is vocab.txt of google-bert/{TEXT_ENCODER}",
    ),
    SideFile(
        (PREPROCESSOR,),
        "the normalization of the image of Vary, Co-DETR and SAM",
        "copy the folder experts of the released checkpoint there to use its own",
        assumed="that of CLIP",
    ),
)
