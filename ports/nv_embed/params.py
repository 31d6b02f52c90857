"""Names of the tensors in NV-Embed's checkpoint."""

from __future__ import annotations

from typing import Any

from flax import nnx

from ports.common.conversion import Converter
from ports.common.decoder import decoder_leaves
from ports.common.mapping import Leaf, linear_leaves, norm_leaves
from ports.nv_embed.config import NVEmbedConfig
from ports.nv_embed.modeling import NVEmbed

DECODER, LATENT = "embedding_model.", "latent_attention_model"
CROSS, FEED = f"{LATENT}.cross_attend_blocks.0", f"{LATENT}.cross_attend_blocks.1"


def leaves(config: NVEmbedConfig) -> dict[str, Leaf]:
    """How every parameter is made."""
    return {
        "words": Leaf((f"{DECODER}embed_tokens.weight",)),
        **decoder_leaves("decoder", DECODER, config.decoder),
        "latent/latents": Leaf((f"{LATENT}.latents",)),
        **norm_leaves("latent/norm", f"{CROSS}.norm"),
        **norm_leaves("latent/latent_norm", f"{CROSS}.norm_context"),
        **linear_leaves("latent/query", f"{CROSS}.fn.to_q", bias=False),
        **linear_leaves("latent/key_value", f"{CROSS}.fn.to_kv", bias=False),
        **linear_leaves("latent/out", f"{CROSS}.fn.to_out", bias=False),
        **norm_leaves("latent/feed_norm", f"{FEED}.norm"),
        **linear_leaves("latent/up", f"{FEED}.fn.net.0"),
        **linear_leaves("latent/down", f"{FEED}.fn.net.2"),
    }


def ignored(config: NVEmbedConfig) -> tuple[str, ...]:
    """Nothing: every tensor is used."""
    return ()


def abstract_params(config: NVEmbedConfig) -> Any:
    """The parameters as shapes."""
    return nnx.state(nnx.eval_shape(lambda: NVEmbed(config, nnx.Rngs(0))))


converter = Converter("nv_embed", NVEmbedConfig.from_folder, leaves, ignored, abstract_params)
