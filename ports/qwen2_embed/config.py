"""Sizes of the two Qwen2 embedders, and what tells them apart: how a text's states become one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports.common.checkpoints import open_checkpoint
from ports.common.configs import read_json, take
from ports.common.decoder import DecoderConfig
from r2t2_jax.errors import R2T2Error

TAKEN = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "hidden",
    "rms_norm_eps": "eps",
    "rope_theta": "theta",
}
FIXED = {
    "hidden_act": ("silu",),
    "model_type": ("qwen2",),
    "use_sliding_window": (False,),
    "rope_scaling": (None,),
    "is_causal": (False,),
}
IGNORED = ("sliding_window", "max_window_layers")  # without use_sliding_window


@dataclass(frozen=True)
class Qwen2EmbedConfig:
    """A Qwen2 decoder without causal mask.

    `head` is the width of stella's dense layer over the mean of the states; without one the vector is the state of the
    last token, an appended end-of-text token. `prefix` is how the decoder's tensor names begin in the checkpoint.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    head: int | None
    max_tokens: int
    head_width: int = 128
    eps: float = 1e-6
    theta: float = 1e6
    prefix: str = "model."
    dtype: str = "float32"

    @classmethod
    def stella(cls) -> Qwen2EmbedConfig:
        """stella_en_1.5B_v5 with its head of 1024."""
        return cls(151646, 1536, 28, 12, 2, 8960, head=1024, max_tokens=512)

    @classmethod
    def gte_qwen2_7b(cls) -> Qwen2EmbedConfig:
        """gte-Qwen2-7B-instruct."""
        return cls(151646, 3584, 28, 28, 4, 18944, head=None, max_tokens=8192)

    @classmethod
    def from_hf(cls, described: Mapping[str, Any], head: int | None, max_tokens: int) -> Qwen2EmbedConfig:
        """The config of a Qwen2 `config.json`.

        Raises:
            R2T2Error: a field is missing, unknown, or has a value that is not implemented.
        """
        taken = take(described, TAKEN, FIXED, (*IGNORED, "head_dim"), "config.json of a Qwen2")
        head_width = described.get("head_dim") or taken["width"] // taken["heads"]
        return cls(**taken, head_width=head_width, head=head, max_tokens=max_tokens)

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder alone."""
        return DecoderConfig.part_of(self, qkv_bias=True)


def stella_from_folder(folder: Path, head: str) -> Qwen2EmbedConfig:
    """The config of stella's folder; `head` is the folder of the dense layer in it, such as `2_Dense_1024`.

    Raises:
        R2T2Error: a file is missing, or asks for something that is not implemented.
    """
    dense = read_json(folder / head / "config.json")
    if not dense.get("bias", True) or not str(dense.get("activation_function", "Identity")).endswith("Identity"):
        raise R2T2Error(f"{folder / head / 'config.json'}: a dense layer with bias and no activation is implemented")
    return _from_folder(folder, Qwen2EmbedConfig.stella(), int(dense["out_features"]))


def gte_from_folder(folder: Path) -> Qwen2EmbedConfig:
    """The config of gte's folder.

    Raises:
        R2T2Error: a file is missing, or asks for something that is not implemented.
    """
    return _from_folder(folder, Qwen2EmbedConfig.gte_qwen2_7b(), None)


def _from_folder(folder: Path, usual: Qwen2EmbedConfig, head: int | None) -> Qwen2EmbedConfig:
    limits = folder / "sentence_bert_config.json"
    tokens = read_json(limits).get("max_seq_length") if limits.is_file() else None
    config = Qwen2EmbedConfig.from_hf(read_json(folder / "config.json"), head, tokens or usual.max_tokens)
    prefixed = any(name.startswith("model.") for name in open_checkpoint(folder))
    return Qwen2EmbedConfig(**{**vars(config), "prefix": "model." if prefixed else ""})
