"""Names of the tensors in the model's safetensors file, and how a folder becomes a model directory."""

from __future__ import annotations

from typing import Any

from flax import nnx

from ports.common.bert import bert_leaves
from ports.common.conversion import Converter
from ports.common.mapping import Leaf
from ports.minilm.config import MiniLMConfig
from ports.minilm.modeling import MiniLM


def leaves(config: MiniLMConfig) -> dict[str, Leaf]:
    """How every parameter is made."""
    return bert_leaves("bert", "", config.bert)


def ignored(config: MiniLMConfig) -> tuple[str, ...]:
    """The pooler, which sentence-transformers does not use, and a buffer of 0, 1, 2, ..."""
    return (r"pooler\.dense\.(weight|bias)", r"embeddings\.position_ids")


def abstract_params(config: MiniLMConfig) -> Any:
    """The parameters as shapes."""
    return nnx.state(nnx.eval_shape(lambda: MiniLM(config, nnx.Rngs(0))))


converter = Converter("minilm", MiniLMConfig.from_folder, leaves, ignored, abstract_params)
