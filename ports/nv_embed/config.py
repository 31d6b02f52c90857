"""Sizes of NV-Embed: a Mistral decoder, and the latent attention block on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports.common.configs import read_json, take
from ports.common.decoder import DecoderConfig

DECODER_TAKEN = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "hidden",
    "rms_norm_eps": "eps",
    "rope_theta": "theta",
}
DECODER_FIXED = {"hidden_act": ("silu",), "model_type": ("mistral", "bidir_mistral"), "rope_scaling": (None,)}
DECODER_IGNORED = ("sliding_window", "head_dim")  # the mask in both directions has no window
LATENT_TAKEN = {
    "latent_dim": "latent_width",
    "num_latents_value": "latents",
    "num_cross_heads": "cross_heads",
    "cross_dim_head": "cross_width",
    "mult": "multiple",
}
LATENT_FIXED = {"output_normalize": (True,), "model_type": ("latent_attention",)}
TOP_FIXED = {
    "is_mask_instruction": (True,), "mask_type": ("b",), "padding_side": ("right",), "model_type": ("nvembed",),
    "add_eos": (True,),
}  # fmt: skip
TOP_IGNORED = ("latent_attention_config", "text_config", "hidden_size", "add_pad_token")


@dataclass(frozen=True)
class NVEmbedConfig:
    """The decoder's sizes, then the latent block's: `latents` of `latent_width`, heads, and the width of the GEGLU."""

    vocab_size: int = 32000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_width: int = 128
    hidden: int = 14336
    eps: float = 1e-5
    theta: float = 1e4
    latents: int = 512
    latent_width: int = 4096
    cross_heads: int = 8
    cross_width: int = 4096
    multiple: int = 4
    norm_eps: float = 1e-5
    max_tokens: int = 4096
    dtype: str = "float32"

    @classmethod
    def full_v2(cls) -> NVEmbedConfig:
        """NV-Embed-v2."""
        return cls()

    @classmethod
    def from_hf(cls, described: Mapping[str, Any]) -> NVEmbedConfig:
        """The config of the model's `config.json`, its two inner configs included.

        Raises:
            R2T2Error: a field is missing, unknown, or has a value that is not implemented.
        """
        take(described, {}, TOP_FIXED, TOP_IGNORED, "config.json of NV-Embed")
        text = dict(described.get("text_config", {}))
        decoder = take(text, DECODER_TAKEN, DECODER_FIXED, DECODER_IGNORED, "config.json of NV-Embed, text_config")
        latent = take(
            described.get("latent_attention_config", {}), LATENT_TAKEN, LATENT_FIXED, ("hidden_size",),
            "config.json of NV-Embed, latent_attention_config",
        )  # fmt: skip
        head_width = text.get("head_dim") or decoder["width"] // decoder["heads"]
        return cls(**decoder, **latent, head_width=head_width)

    @classmethod
    def from_folder(cls, folder: Path) -> NVEmbedConfig:
        """The config of the upstream folder."""
        return cls.from_hf(read_json(folder / "config.json"))

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder alone; Mistral has no biases."""
        return DecoderConfig.part_of(self)
