"""NV-Embed-v2: bidirectional Mistral, then cross-attention of every token to 512 learned latents.

Axis letters: T tokens, D width, N latents, H heads, d head width. The model takes one text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from tokenizers import Tokenizer

from ports.common.checkpoint.convert import CONFIG_FILE, TOKENIZER_JSON, Converter
from ports.common.checkpoint.load import open_model
from ports.common.checkpoint.mapping import Leaf, linear_leaves, norm_leaves
from ports.common.configs import ConfigFields, read_json, stated_head_width
from ports.common.layers.attention import attend, join_heads, split_heads
from ports.common.layers.decoder import DecoderConfig, DecoderEncoder, decoder_leaves
from ports.common.layers.linear import LayerNorm, linear, normal
from ports.common.text_embedder import (
    SIMILAR_TEXT,
    TextEmbedder,
    TextEncoder,
    Tokens,
    id_of,
    instruct,
    mean_pool,
    read_tokenizer,
    unit,
)
from r2t2_jax.errors import R2T2Error

# Absent fields have the values of the released model: its two nested configs leave out what their classes default to.
MISTRAL = ConfigFields(
    "config.json of NV-Embed, text_config",
    taken={
        "vocab_size": "vocab_size",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "num_key_value_heads": "kv_heads",
        "intermediate_size": "hidden",
        "rms_norm_eps": "eps",
        "rope_theta": "theta",
    },
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
    },
    fixed={"hidden_act": ("silu",), "model_type": ("mistral", "bidir_mistral"), "rope_scaling": (None,)},
    inert=("sliding_window", "head_dim"),  # the bidirectional mask has no window
)
LATENT_BLOCK = ConfigFields(
    "config.json of NV-Embed, latent_attention_config",
    taken={
        "latent_dim": "latent_width",
        "num_latents_value": "latents",
        "num_cross_heads": "cross_heads",
        "cross_dim_head": "cross_width",
        "mult": "multiple",
    },
    defaults={
        "latent_dim": 4096,
        "num_latents_value": 512,
        "num_cross_heads": 8,
        "cross_dim_head": 4096,
        "mult": 4,
    },
    fixed={"output_normalize": (True,), "model_type": ("latent_attention",)},
    inert=("hidden_size", "hidden_dim"),
)
NV_EMBED = ConfigFields(
    "config.json of NV-Embed",
    fixed={
        "is_mask_instruction": (True,), "mask_type": ("b",), "padding_side": ("right",), "model_type": ("nvembed",),
        "add_eos": (True,),
    },
    inert=("hidden_size", "add_pad_token"),
    nested={"latent_attention_config": LATENT_BLOCK, "text_config": MISTRAL},
)  # fmt: skip


@dataclass(frozen=True)
class NVEmbedConfig:
    """Sizes of the decoder, then of the latent block; its GEGLU has `multiple * width` hidden units."""

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
        """The config of the model's `config.json` with its two nested configs, which may be short or absent.

        Raises:
            R2T2Error: a field has a value that is not implemented.
        """
        NV_EMBED.read(described)
        text = described.get("text_config") or {}
        decoder = MISTRAL.read(text, cls)
        latent = LATENT_BLOCK.read(described.get("latent_attention_config") or {}, cls)
        head_width = stated_head_width(MISTRAL.where, text, decoder)
        return cls(**decoder, **latent, head_width=head_width)

    @classmethod
    def from_folder(cls, folder: Path) -> NVEmbedConfig:
        """The config of the upstream folder."""
        return cls.from_hf(read_json(folder / "config.json"))

    @property
    def decoder(self) -> DecoderConfig:
        """The config of the decoder; Mistral has no biases."""
        return DecoderConfig.part_of(self)


class LatentAttention(nnx.Module):
    """x = h + attention(norm(h), latents); x + down_proj(u * gelu(g)) with (u, g) = up_proj(feed_norm(x))."""

    def __init__(self, config: NVEmbedConfig, rngs: nnx.Rngs):
        inner, width, dtype = config.cross_heads * config.cross_width, config.width, config.dtype
        self.heads = config.cross_heads
        self.latents = normal(rngs, (config.latents, config.latent_width), dtype)
        self.norm = LayerNorm(width, config.norm_eps, dtype)
        self.latent_norm = LayerNorm(config.latent_width, config.norm_eps, dtype)
        self.q_proj = linear(width, inner, rngs, dtype, bias=False)
        self.kv_proj = linear(config.latent_width, 2 * inner, rngs, dtype, bias=False)
        self.o_proj = linear(inner, width, rngs, dtype, bias=False)
        self.feed_norm = LayerNorm(width, config.norm_eps, dtype)
        self.up_proj = linear(width, 2 * config.multiple * width, rngs, dtype)
        self.down_proj = linear(config.multiple * width, width, rngs, dtype)

    def __call__(self, h: Float[Array, "T D"]) -> Float[Array, "T D"]:
        keys, values = jnp.split(self.kv_proj(self.latent_norm(self.latents[...])), 2, axis=-1)  # [N, H d]
        query, keys, values = (split_heads(part, self.heads) for part in (self.q_proj(self.norm(h)), keys, values))
        x = h + self.o_proj(join_heads(attend(query, keys, values)))
        value, gate = jnp.split(self.up_proj(self.feed_norm(x)), 2, axis=-1)
        return x + self.down_proj(value * jax.nn.gelu(gate, approximate=False))


class NVEmbed(DecoderEncoder):
    """The embedding of one text; the instruction is left out of the mean."""

    def __init__(self, config: NVEmbedConfig, rngs: nnx.Rngs):
        super().__init__(config.vocab_size, config.decoder, rngs)
        self.latent = LatentAttention(config, rngs)

    def __call__(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"], pooled: Bool[Array, "T"]) -> Float[Array, "D"]:
        return unit(mean_pool(self.latent(self.states(tokens, mask)), pooled))


DECODER, LATENT = "embedding_model.", "latent_attention_model"
CROSS, FEED = f"{LATENT}.cross_attend_blocks.0", f"{LATENT}.cross_attend_blocks.1"


def leaves(config: NVEmbedConfig) -> dict[str, Leaf]:
    """The upstream tensors of every parameter."""
    return {
        "embed_tokens": Leaf((f"{DECODER}embed_tokens.weight",)),
        **decoder_leaves("decoder", DECODER, config.decoder),
        "latent/latents": Leaf((f"{LATENT}.latents",)),
        **norm_leaves("latent/norm", f"{CROSS}.norm"),
        **norm_leaves("latent/latent_norm", f"{CROSS}.norm_context"),
        **linear_leaves("latent/q_proj", f"{CROSS}.fn.to_q", bias=False),
        **linear_leaves("latent/kv_proj", f"{CROSS}.fn.to_kv", bias=False),
        **linear_leaves("latent/o_proj", f"{CROSS}.fn.to_out", bias=False),
        **norm_leaves("latent/feed_norm", f"{FEED}.norm"),
        **linear_leaves("latent/up_proj", f"{FEED}.fn.net.0"),
        **linear_leaves("latent/down_proj", f"{FEED}.fn.net.2"),
    }


def ignored(config: NVEmbedConfig) -> tuple[str, ...]:
    """No patterns: every upstream tensor is used."""
    return ()


def abstract_params(config: NVEmbedConfig) -> Any:
    """The parameters as shapes."""
    return nnx.state(nnx.eval_shape(lambda: NVEmbed(config, nnx.Rngs(0))))


converter = Converter(
    "nv_embed",
    NVEmbedConfig.from_folder,
    leaves,
    ignored,
    abstract_params,
    side_files=(CONFIG_FILE, TOKENIZER_JSON),
    known={"config.json": NV_EMBED},
    hub="nvidia/NV-Embed-v2",
)

LICENSE = "the weights of NV-Embed-v2 are for non-commercial use only (CC-BY-NC-4.0)"
END = "</s>"

logger = logging.getLogger("r2t2")


@dataclass(frozen=True)
class NVEmbedTokenizer:
    """<s> instruction text </s>; long texts lose their end, not the </s>.

    The number of tokens left out of the mean is the length of the instruction counted without <s>: <s> and all of the
    instruction but its last token, as upstream does.
    """

    tokenizer: Tokenizer
    instruction: str
    max_tokens: int
    end: int

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        skipped = len(self.tokenizer.encode(self.instruction, add_special_tokens=False).ids)
        encodings = self.tokenizer.encode_batch([self.instruction + text + END for text in texts])
        return [self._cut(encoding.ids, skipped) for encoding in encodings]

    def _cut(self, ids: list[int], skipped: int) -> Tokens:
        if len(ids) <= self.max_tokens:
            return Tokens(tuple(ids), skipped)
        return Tokens((*ids[: self.max_tokens - 1], self.end), skipped, cut=True)


@dataclass(frozen=True)
class NVEmbedder(TextEmbedder):
    """An `Embedder` whose instruction, the text before every question, can be chosen."""

    @property
    def instruction(self) -> str:
        """The text before every question."""
        return self.settings[0]

    def with_instruction(self, instruction: str) -> NVEmbedder:
        """The same embedder with another text before every question."""
        assert isinstance(self.tokenize, NVEmbedTokenizer)
        return replace(self, settings=(instruction,), tokenize=replace(self.tokenize, instruction=instruction))


def load(path: str | None) -> NVEmbedder:
    """NV-Embed-v2. The license of the weights is logged.

    Args:
        path: a model directory, the upstream folder, or a hub id; `PATH,instruction=TEXT` puts this text before every
            question, `PATH,instruction=similar` the published one for similar texts, which is the default.

    Raises:
        R2T2Error: no path is given, or the model is missing or damaged.
    """
    if path is None:
        raise R2T2Error(f"nv_embed needs its weights: nv_embed:PATH, made by r2t2 convert; {LICENSE}")
    path, _, chosen = path.partition(",instruction=")
    opened = open_model(converter, NVEmbedConfig, path)
    logger.warning("nv_embed: %s", LICENSE)
    config, tokenizer = opened.config, read_tokenizer(opened.tokenizer)
    instruction = chosen if chosen not in ("", "similar") else instruct(SIMILAR_TEXT)
    return NVEmbedder(
        name="nv-embed",
        digest=opened.digest,
        settings=(instruction,),
        tokenize=NVEmbedTokenizer(tokenizer, instruction, config.max_tokens, id_of(tokenizer, END)),
        encoder=TextEncoder.of(lambda rngs: NVEmbed(config, rngs)),
        params=opened.params,
        size=config.width,
        max_tokens=config.max_tokens,
    )
