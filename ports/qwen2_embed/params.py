"""Names of the tensors in the checkpoints of stella and gte, with `model.` in front or without it."""

from __future__ import annotations

from typing import Any

from flax import nnx

from ports.common.conversion import Converter
from ports.common.decoder import decoder_leaves
from ports.common.mapping import Leaf, linear_leaves
from ports.qwen2_embed.config import Qwen2EmbedConfig, gte_from_folder, stella_from_folder
from ports.qwen2_embed.modeling import Qwen2Embed

STELLA_HEAD = "2_Dense_1024"


def leaves(config: Qwen2EmbedConfig) -> dict[str, Leaf]:
    """How every parameter is made."""
    found = {
        "words": Leaf((f"{config.prefix}embed_tokens.weight",)),
        **decoder_leaves("decoder", config.prefix, config.decoder),
    }
    return found if config.head is None else found | linear_leaves("head", "linear")


def ignored(config: Qwen2EmbedConfig) -> tuple[str, ...]:
    """The language model's head, which an embedder has no use for."""
    return (r"lm_head\.weight",)


def abstract_params(config: Qwen2EmbedConfig) -> Any:
    """The parameters as shapes."""
    return nnx.state(nnx.eval_shape(lambda: Qwen2Embed(config, nnx.Rngs(0))))


stella = Converter(
    "stella",
    lambda folder: stella_from_folder(folder, STELLA_HEAD),
    leaves,
    ignored,
    abstract_params,
    folders=(".", STELLA_HEAD),
)
gte_qwen2 = Converter("gte_qwen2", gte_from_folder, leaves, ignored, abstract_params)
