"""stella and gte as embedders of the contract, with the instructions they were trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from ports.common.conversion import Converter
from ports.common.instructions import SIMILAR_TEXT, instruct
from ports.common.opened import open_model
from ports.common.text_embedder import TextEmbedder, TextEncoder, Tokens
from ports.common.tokenizing import id_of, read_tokenizer
from ports.qwen2_embed.config import Qwen2EmbedConfig
from ports.qwen2_embed.modeling import Qwen2Embed
from ports.qwen2_embed.params import gte_qwen2, stella
from r2t2_jax.errors import R2T2Error

END = "<|endoftext|>"  # also the padding token, so that a mask can never be had by comparing ids


@dataclass(frozen=True)
class Qwen2Tokenizer:
    """Instruction and text, then `end` where it is given, whatever the file itself would append. Long texts are cut."""

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
    """stella_en_1.5B_v5; the published prompt for similar texts stands before every question.

    Args:
        path: a model directory, the upstream folder, or a hub id.

    Raises:
        R2T2Error: no path, or what is there is missing or damaged.
    """
    return _load(stella, path, f"{SIMILAR_TEXT}.", appended=None)


def load_gte(path: str | None) -> TextEmbedder:
    """gte-Qwen2-7B-instruct, with the same instruction.

    Args:
        path: a model directory, the upstream folder, or a hub id.

    Raises:
        R2T2Error: no path, or what is there is missing or damaged.
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
