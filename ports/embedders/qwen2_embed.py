"""stella_en_1.5B_v5 and gte-Qwen2-7B-instruct: bidirectional Qwen2 with two kinds of pooling.

Axis letters: T tokens, D width, M embedding size. The model takes one text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from tokenizers import Tokenizer

from ports.common.checkpoint.convert import CONFIG_FILE, TOKENIZER_JSON, Converter, SideFile
from ports.common.checkpoint.load import open_model
from ports.common.checkpoint.mapping import Leaf, linear_leaves
from ports.common.configs import ConfigFields, checked_value, read_json, stated_head_width
from ports.common.layers.decoder import DecoderConfig, DecoderEncoder, decoder_leaves
from ports.common.layers.linear import linear
from ports.common.text_embedder import (
    LENGTHS,
    LIMITS,
    SIMILAR_TEXT,
    TextEmbedder,
    TextEncoder,
    Tokens,
    id_of,
    instruct,
    last_token,
    length_limit,
    mean_pool,
    read_tokenizer,
    unit,
)
from r2t2_jax.errors import R2T2Error

QWEN2 = ConfigFields(
    "config.json of a Qwen2",
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
    fixed={
        "hidden_act": ("silu",),
        "model_type": ("qwen2",),
        "use_sliding_window": (False,),
        "rope_scaling": (None,),
        "is_causal": (False,),
    },
    inert=("head_dim", "sliding_window", "max_window_layers"),  # the windows need use_sliding_window
)
DENSE = ConfigFields(
    "config.json of a dense layer",
    fixed={"bias": (True,)},
    inert=("activation_function", "in_features", "out_features"),
)


@dataclass(frozen=True)
class Qwen2EmbedConfig:
    """A Qwen2 decoder without causal mask.

    `head` is the width of stella's dense layer over the mean of the states; if it is None, the vector is the state of
    the last token, an appended end-of-text token. `prefix` is the prefix of the decoder's tensor names.
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
            R2T2Error: a field is missing or has a value that is not implemented.
        """
        taken = QWEN2.read(described, cls)
        head_width = stated_head_width(QWEN2.where, described, taken)
        return cls(**taken, head_width=head_width, head=head, max_tokens=max_tokens)

    @property
    def decoder(self) -> DecoderConfig:
        """The config of the decoder."""
        return DecoderConfig.part_of(self, qkv_bias=True)


def stella_from_folder(folder: Path, head: str) -> Qwen2EmbedConfig:
    """The config of stella's folder; `head` is its subfolder with the dense layer, such as `2_Dense_1024`.

    Raises:
        R2T2Error: a file is missing, or requires something that is not implemented.
    """
    dense = read_json(folder / head / "config.json")
    if not dense.get("bias", True) or not str(dense.get("activation_function", "Identity")).endswith("Identity"):
        raise R2T2Error(
            f"{folder / head / 'config.json'}: only a dense layer with bias and without activation is implemented"
        )
    width = checked_value(DENSE.where, "out_features", dense.get("out_features"), int)
    return _from_folder(folder, Qwen2EmbedConfig.stella(), width)


def gte_from_folder(folder: Path) -> Qwen2EmbedConfig:
    """The config of gte's folder.

    Raises:
        R2T2Error: a file is missing, or requires something that is not implemented.
    """
    return _from_folder(folder, Qwen2EmbedConfig.gte_qwen2_7b(), None)


def _from_folder(folder: Path, default: Qwen2EmbedConfig, head: int | None) -> Qwen2EmbedConfig:
    tokens = length_limit(folder) or default.max_tokens
    return Qwen2EmbedConfig.from_hf(read_json(folder / "config.json"), head, tokens)


def adapt(config: Qwen2EmbedConfig, names: Collection[str]) -> Qwen2EmbedConfig:
    """The config with the prefix of the decoder's tensors, which some releases omit."""
    prefixed = any(name.startswith("model.") for name in names)
    return dataclasses.replace(config, prefix="model." if prefixed else "")


class Qwen2Embed(DecoderEncoder):
    """Every real token attends to all real tokens. Positions include padding; only their differences matter."""

    def __init__(self, config: Qwen2EmbedConfig, rngs: nnx.Rngs):
        super().__init__(config.vocab_size, config.decoder, rngs)
        self.head = None if config.head is None else linear(config.width, config.head, rngs)  # float32, as the mean is

    def pool(self, states: Float[Array, "T D"], mask: Bool[Array, "T"], pooled: Bool[Array, "T"]) -> Float[Array, "M"]:
        """stella: the dense layer over the mean. gte: the last token's state. Not normalized."""
        return last_token(states, mask) if self.head is None else self.head(mean_pool(states, pooled))

    def __call__(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"], pooled: Bool[Array, "T"]) -> Float[Array, "M"]:
        return unit(self.pool(self.states(tokens, mask), mask, pooled))


STELLA_HEAD = "2_Dense_1024"
DENSE_CONFIG = SideFile(
    (f"{STELLA_HEAD}/config.json",), "the dense layer over the mean", "it belongs to the checkpoint"
)


def leaves(config: Qwen2EmbedConfig) -> dict[str, Leaf]:
    """The upstream tensors of every parameter."""
    mapping = {
        "embed_tokens": Leaf((f"{config.prefix}embed_tokens.weight",)),
        **decoder_leaves("decoder", config.prefix, config.decoder),
    }
    return mapping if config.head is None else mapping | linear_leaves("head", "linear")


def ignored(config: Qwen2EmbedConfig) -> tuple[str, ...]:
    """Regular expressions of unused upstream names: the language model's head."""
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
    adapt=adapt,
    side_files=(CONFIG_FILE, TOKENIZER_JSON, DENSE_CONFIG),
    known={"config.json": QWEN2, LIMITS: LENGTHS, f"{STELLA_HEAD}/config.json": DENSE},
)
gte_qwen2 = Converter(
    "gte_qwen2",
    gte_from_folder,
    leaves,
    ignored,
    abstract_params,
    adapt=adapt,
    side_files=(CONFIG_FILE, TOKENIZER_JSON),
    known={"config.json": QWEN2, LIMITS: LENGTHS},
)

END = "<|endoftext|>"  # also the padding token, so masks are made from lengths, not from ids


@dataclass(frozen=True)
class Qwen2Tokenizer:
    """Instruction and text; if `end` is given, it replaces the special tokens of the file. Long texts are truncated."""

    tokenizer: Tokenizer
    instruction: str
    max_tokens: int
    end: int | None

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        whole = [self.instruction + text for text in texts]
        encodings = self.tokenizer.encode_batch(whole, add_special_tokens=self.end is None)
        return [self._cut(encoding.ids) for encoding in encodings]

    def _cut(self, ids: list[int]) -> Tokens:
        ends = () if self.end is None else (self.end,)
        room = self.max_tokens - len(ends)
        return Tokens((*ids[:room], *ends), cut=len(ids) > room)


def load_stella(path: str | None) -> TextEmbedder:
    """stella_en_1.5B_v5 with the published prompt for similar texts before every question.

    Args:
        path: a model directory, the upstream folder, or a hub id.

    Raises:
        R2T2Error: no path is given, or the model is missing or damaged.
    """
    return _load(stella, path, f"{SIMILAR_TEXT}.", appended=None)


def load_gte(path: str | None) -> TextEmbedder:
    """gte-Qwen2-7B-instruct with the same instruction.

    Args:
        path: a model directory, the upstream folder, or a hub id.

    Raises:
        R2T2Error: no path is given, or the model is missing or damaged.
    """
    return _load(gte_qwen2, path, SIMILAR_TEXT, appended=END)


def _load(converter: Converter, path: str | None, task: str, appended: str | None) -> TextEmbedder:
    if path is None:
        raise R2T2Error(f"{converter.port} needs its weights: {converter.port}:PATH, made by r2t2 convert")
    opened = open_model(converter, Qwen2EmbedConfig, path)
    config, tokenizer = opened.config, read_tokenizer(opened.tokenizer)
    end = None if appended is None else id_of(tokenizer, appended)
    return TextEmbedder(
        name=converter.port.replace("_", "-"),
        digest=opened.digest,
        settings=(instruct(task),),
        tokenize=Qwen2Tokenizer(tokenizer, instruct(task), config.max_tokens, end),
        encoder=TextEncoder.of(lambda rngs: Qwen2Embed(config, rngs)),
        params=opened.params,
        size=config.head or config.width,
        max_tokens=config.max_tokens,
    )
