"""Parameters of Qwen3.5-MoE from checkpoints: fused or per-expert names, BF16 or block-wise FP8.

The extra layer for speculative decoding (`mtp.*`) is left out by name. A model of the family without a vision tower has
the model type `qwen3_5_moe_text`, the fields of `text_config` in `config.json` itself, and tensors `model.layers.*`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from ports.common.checkpoint.convert import CONFIG_FILE, TOKENIZER_JSON, Converter
from ports.common.checkpoint.mapping import Leaf, layer_names, linear_leaves, norm_leaves
from ports.common.configs import read_json
from ports.common.layers.hybrid_decoder import HybridDecoderConfig
from ports.common.layers.moe_decoder import abstract as abstract_decoder
from ports.common.moe_lm.chat import CHAT_FILES
from ports.common.moe_lm.params import NESTED, adapted, dequantized, expert_leaves, tied_head
from ports.common.moe_lm.port import Family, LMConfig
from ports.common.qwen_vl.config import QwenVLConfig
from ports.common.qwen_vl.model import abstract
from ports.common.qwen_vl.params import PREPROCESSOR, check_template, model_fields, read_config
from ports.common.qwen_vl.vision import vision_leaves
from ports.qwen3_5_moe.config import (
    Qwen35MoEConfig,
    Qwen35MoETextConfig,
    text_config,
    text_fields,
    text_model_config,
)
from r2t2_jax.errors import R2T2Error

FIELDS = model_fields(
    "qwen3_5_moe", text_fields("config.json"), {"deepstack_visual_indexes": []}, ("language_model_only",)
)  # fmt: skip
MTP, INV_FREQ = r"mtp\..*", r".*\.rotary_emb\.inv_freq"
TEXT_TYPE = "qwen3_5_moe_text"


def decoder_leaves(ours: str, theirs: str, config: HybridDecoderConfig, separate_experts: bool) -> dict[str, Leaf]:
    """Parameters of `HybridDecoder` at path `ours`, as `moe_decoder_leaves` gives those of `MoEDecoder`."""
    layer, layers = f"{theirs}layers.{{}}", config.layers
    leaves = {f"{ours}embed_tokens": Leaf((f"{theirs}embed_tokens.weight",))}
    leaves |= norm_leaves(f"{ours}norm", f"{theirs}norm", bias=False)
    if not config.tied:
        leaves |= linear_leaves(f"{ours}lm_head", "lm_head", bias=False)
    for name in ("input_layernorm", "post_attention_layernorm"):
        leaves |= norm_leaves(f"{ours}layers/{name}", f"{layer}.{name}", layers, bias=False)
    for part, name in (
        ("gate", "gate"), ("shared_expert_gate", "shared_expert_gate"),
        *((f"shared_expert/{name}", f"shared_expert.{name}") for name in ("gate_proj", "up_proj", "down_proj")),
    ):  # fmt: skip
        leaves |= linear_leaves(f"{ours}layers/{part}", f"{layer}.mlp.{name}", bias=False, layers=layers)
    leaves |= expert_leaves(f"{ours}layers/experts", layer, config, separate_experts, outputs_first)
    for name in ("q_norm", "k_norm"):
        leaves |= norm_leaves(f"{ours}self_attn/{name}", f"{layer}.self_attn.{name}", config.full, bias=False)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        leaves |= linear_leaves(
            f"{ours}self_attn/{name}", f"{layer}.self_attn.{name}", bias=False, layers=config.full
        )  # fmt: skip
    return leaves | _linear_leaves(f"{ours}linear_attn", f"{layer}.linear_attn", config)


def _linear_leaves(ours: str, theirs: str, config: HybridDecoderConfig) -> dict[str, Leaf]:
    leaves = norm_leaves(f"{ours}/norm", f"{theirs}.norm", config.linear, bias=False)
    for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"):
        leaves |= linear_leaves(f"{ours}/{name}", f"{theirs}.{name}", bias=False, layers=config.linear)
    for name in ("A_log", "dt_bias"):
        leaves[f"{ours}/{name}"] = Leaf(layer_names(f"{theirs}.{name}", config.linear), stacked=True)
    leaves[f"{ours}/conv1d"] = Leaf(layer_names(f"{theirs}.conv1d.weight", config.linear), depthwise, True)
    return leaves


def depthwise(tensor: np.ndarray) -> np.ndarray:
    """PyTorch's [channels, 1, kernel] weight as [kernel, channels]."""
    return tensor[:, 0].T


def outputs_first(tensor: np.ndarray, inside: int, outside: int) -> np.ndarray:
    """Fused experts [E, out, in] as [E, in, out]."""
    if tensor.shape[1:] != (outside, inside):
        raise ValueError(f"experts need {outside} x {inside}")
    return tensor.transpose(0, 2, 1)


def text_leaves(config: LMConfig) -> dict[str, Leaf]:
    """The leaf that makes each parameter of a text model's tensors, by path."""
    assert isinstance(config, Qwen35MoETextConfig)
    return decoder_leaves("", config.prefix, config.decoder, config.separate_experts)


def leaves(config: QwenVLConfig) -> dict[str, Leaf]:
    """The leaf that makes each parameter of upstream's tensors, by path."""
    assert isinstance(config, Qwen35MoEConfig)
    mapping = decoder_leaves("decoder/", NESTED, config.decoder, config.separate_experts)
    return dequantized(mapping | vision_leaves("visual/", "model.visual.", config.vision), config)


RULES = (  # of the decoder: whole paths, and which axis of the leaf is sharded, counted from the end
    (r"(decoder/)?layers/experts/(gate_up|down)", -3),  # the experts
    (r"(decoder/)?layers/shared_expert/(gate_proj|up_proj)/kernel", -1),
    (r"(decoder/)?layers/shared_expert/down_proj/kernel", -2),
    (r"(decoder/)?self_attn/(q_proj|k_proj|v_proj)/kernel", -1),
    (r"(decoder/)?linear_attn/(in_proj_qkv|in_proj_z)/kernel", -1),
    (r"(decoder/)?(self_attn/o_proj|linear_attn/out_proj)/kernel", -2),
    (r"(decoder/)?(lm_head/kernel|embed_tokens)", -1),
)
TEXT = Family(  # without a vision tower
    "qwen3_5_moe",
    text_model_config,
    {},
    kind=Qwen35MoETextConfig,
    leaves=text_leaves,
    rules=RULES,
    fields=text_fields("config.json", ("quantization_config",)),
    ignored=(INV_FREQ, MTP, r"model\.visual\..*"),
)
Config = QwenVLConfig | LMConfig


def config_from(folder: Path) -> Config:
    """The config of a checkpoint's folder.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    file = folder / "config.json"
    described = read_json(file)
    if described.get("model_type") == TEXT_TYPE:
        return TEXT.config_from(folder)
    for name, implemented in (("model_type", "qwen3_5_moe"), ("language_model_only", False)):
        if described.get(name, implemented) != implemented:
            also = f", and {TEXT_TYPE!r} for models without a tower" if name == "model_type" else ""
            raise R2T2Error(f"{file}: {name} = {described[name]!r}, only {implemented!r} is implemented{also}")
    return read_config(folder, FIELDS, text_config, Qwen35MoEConfig)


def adapt(config: Config, names: Collection[str]) -> Config:
    """The config for a checkpoint with tensors of these names."""
    return TEXT.adapt(config, names) if isinstance(config, LMConfig) else adapted(config, names, leaves)


def all_leaves(config: Config) -> Mapping[str, Leaf]:
    """The leaf that makes each parameter of upstream's tensors, by path, with a vision tower or without."""
    return TEXT.all_leaves(config) if isinstance(config, LMConfig) else leaves(config)


def has_tower(folder: Path) -> bool:
    """Whether the checkpoint in a folder has a vision tower, as far as its `config.json` says."""
    file = folder / "config.json"
    return not file.is_file() or read_json(file).get("model_type") != TEXT_TYPE


converter = Converter(
    port="qwen3_5_moe",
    config_from=config_from,
    leaves=all_leaves,
    ignored=lambda config: TEXT.ignored if isinstance(config, LMConfig) else (INV_FREQ, MTP),
    abstract_params=lambda config: (
        abstract_decoder(config.decoder) if isinstance(config, LMConfig) else abstract(config)
    )[1],
    side_files=(CONFIG_FILE, TOKENIZER_JSON, dataclasses.replace(PREPROCESSOR, needed=has_tower)),
    adapt=adapt,
    check_files=check_template,
    tied=lambda config: tied_head(config.decoder, config.prefix if isinstance(config, LMConfig) else NESTED),
    copied=CHAT_FILES,
    known=lambda config: {"config.json": TEXT.fields if isinstance(config, LMConfig) else FIELDS},
    hub="Qwen/Qwen3.5-35B-A3B",
)
