"""Sizes of all-MiniLM-L6-v2, and of any sentence-transformers BERT with mean pooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports.common.bert import BertConfig
from ports.common.configs import read_json, take
from r2t2_jax.errors import R2T2Error

TAKEN = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "positions",
    "type_vocab_size": "types",
    "layer_norm_eps": "eps",
}
FIXED = {"hidden_act": ("gelu",), "position_embedding_type": ("absolute",), "model_type": ("bert",)}


@dataclass(frozen=True)
class MiniLMConfig:
    """The encoder, and to how many tokens a text is cut, [CLS] and [SEP] included."""

    width: int = 384
    layers: int = 6
    heads: int = 12
    hidden: int = 1536
    vocab_size: int = 30522
    positions: int = 512
    types: int = 2
    eps: float = 1e-12
    max_tokens: int = 256
    dtype: str = "float32"

    @classmethod
    def from_hf(cls, described: Mapping[str, Any]) -> MiniLMConfig:
        """The config of a BertModel's `config.json`.

        Raises:
            R2T2Error: a field is missing, unknown, or has a value that is not implemented.
        """
        return cls(**take(described, TAKEN, FIXED, (), "config.json of a BERT"))

    @classmethod
    def from_folder(cls, folder: Path) -> MiniLMConfig:
        """The config of a sentence-transformers folder, its length limit and its pooling included.

        Raises:
            R2T2Error: a file is missing, or asks for something that is not implemented.
        """
        config = cls.from_hf(read_json(folder / "config.json"))
        limits, pooling = folder / "sentence_bert_config.json", folder / "1_Pooling" / "config.json"
        if pooling.is_file():
            modes = [name for name, used in read_json(pooling).items() if name.startswith("pooling_mode_") and used]
            if modes != ["pooling_mode_mean_tokens"]:
                raise R2T2Error(f"{pooling} asks for {', '.join(modes)}; mean pooling alone is implemented")
        tokens = read_json(limits).get("max_seq_length") if limits.is_file() else None
        return cls(**{**vars(config), "max_tokens": min(tokens or config.max_tokens, config.positions)})

    @property
    def bert(self) -> BertConfig:
        """The encoder alone."""
        shared = {name: value for name, value in vars(self).items() if name != "max_tokens"}
        return BertConfig(**shared)
