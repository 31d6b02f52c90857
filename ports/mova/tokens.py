"""Text to ids and back: the language model's tokenizer, BERT's, and upstream's rule for prompts with an image."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ports.mova.modeling import IMAGE
from ports.mova.prompts import IMAGE_MARK
from r2t2_jax.errors import R2T2Error


def prompt_ids(prompt: str, ids: Callable[[str], Sequence[int]], begin: int | None) -> list[int]:
    """The ids of a prompt with IMAGE where it has its mark.

    Upstream's rule: the pieces between marks are tokenised one by one. If the first begins with `begin`, that one is
    kept and the first id of *every* piece is dropped, whatever it is: with a tokenizer that adds no `begin` of its own
    to a prompt that has one, the newline behind the image is lost.
    """
    pieces = [list(ids(piece)) for piece in prompt.split(IMAGE_MARK)]
    opened = bool(pieces[0]) and pieces[0][0] == begin
    found = pieces[0]
    for piece in pieces[1:]:
        found = [*found, IMAGE, *(piece[1:] if opened else piece)]
    return found


@dataclass(frozen=True)
class TextTokenizer:
    """The language model's tokenizer. `ids` is what upstream's gives for a text, `plain` the same without additions."""

    ids: Callable[[str], list[int]]
    plain: Callable[[str], list[int]]
    text: Callable[[list[int]], str]
    begin: int | None

    def prompt(self, prompt: str) -> list[int]:
        """Ids of a prompt with an image."""
        return prompt_ids(prompt, self.ids, self.begin)


def read_tokenizer(folder: Path) -> TextTokenizer:
    """From `tokenizer.json`, or from `tokenizer.model`, whose texts get a begin token as Llama's do.

    Raises:
        R2T2Error: neither is there, or it cannot be read.
    """
    try:
        if (folder / "tokenizer.json").is_file():
            return _fast(folder)
        return _sentencepiece(folder / "tokenizer.model")
    except Exception as error:  # both libraries raise bare exceptions
        raise R2T2Error(f"the tokenizer in {folder} cannot be read ({error}); convert the model again") from error


def _fast(folder: Path) -> TextTokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = folder / "tokenizer_config.json"
    named: Any = json.loads(settings.read_text(encoding="utf-8")).get("bos_token") if settings.is_file() else None
    named = named.get("content") if isinstance(named, dict) else named
    return TextTokenizer(
        ids=lambda text: tokenizer.encode(text).ids,
        plain=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        text=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        begin=tokenizer.token_to_id(named or "<|begin_of_text|>"),
    )


def _sentencepiece(file: Path) -> TextTokenizer:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(file))
    special = {model.bos_id(), model.eos_id(), model.unk_id()}
    return TextTokenizer(
        ids=lambda text: [model.bos_id(), *model.encode(text)],
        plain=lambda text: model.encode(text),
        text=lambda ids: model.decode([token for token in ids if token not in special]),
        begin=model.bos_id(),
    )


def read_wordpiece(file: Path, length: int) -> Callable[[str], list[int]]:
    """BERT's tokenizer from its vocabulary: lower case, [CLS] and [SEP], cut at `length`.

    Raises:
        R2T2Error: the vocabulary cannot be read.
    """
    from tokenizers import BertWordPieceTokenizer

    try:
        tokenizer = BertWordPieceTokenizer(str(file), lowercase=True)
    except Exception as error:  # the library raises bare exceptions
        raise R2T2Error(f"{file} cannot be read ({error}); convert the model again") from error
    tokenizer.enable_truncation(length)
    return lambda text: tokenizer.encode(text).ids


def padded(
    rows: Sequence[Sequence[int]], bucket: int, pad: int = 0
) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Rows of ids behind each other, filled up to the next multiple of `bucket`, and which are no padding."""
    length = -(-max(len(row) for row in rows) // bucket) * bucket
    tokens = np.full((len(rows), length), pad, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        mask[number, : len(row)] = True
    return tokens, mask
