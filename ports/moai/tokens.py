"""Texts to token numbers and back, by the model's sentencepiece file.

The pieces of a prompt are tokenised apart. That gives what tokenising it whole would, since `<image>` is a special
token that splits the text and strips nothing; it never reaches the model, which has its patches in that place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ports.moai.config import MoAIConfig
from ports.moai.prompts import ASSISTANT, END, IMAGE, SYSTEM
from r2t2_jax.errors import R2T2Error

FILE = "tokenizer.model"


class Pieces(NamedTuple):
    """Tokens before the image, the beginning-of-sequence token first, and behind it."""

    before: list[int]
    after: list[int]


def prompt_pieces(encode: Callable[[str], list[int]], user: str, bos: int) -> Pieces:
    """The system text up to the image, and the user's turn."""
    return Pieces([bos, *encode(SYSTEM.removesuffix(IMAGE))], encode(user))


@dataclass(frozen=True)
class Tokenizer:
    """A sentencepiece model whose special numbers are the config's."""

    path: Path
    config: MoAIConfig

    @cached_property
    def _pieces(self) -> Any:
        import sentencepiece

        try:
            return sentencepiece.SentencePieceProcessor(model_file=str(self.path))
        except (OSError, RuntimeError) as error:
            raise R2T2Error(f"{self.path} is no sentencepiece model ({error}); convert the model again") from error

    def adjusted(self) -> Tokenizer:
        """With the number of the piece that ends a turn read from the file: the config's is inferred.

        Raises:
            R2T2Error: the file cannot be read, or has no such piece or another number of pieces than the model outputs.
        """
        size, end = self._pieces.vocab_size(), self._pieces.piece_to_id(END)
        if size != self.config.vocab_size:
            raise R2T2Error(f"{self.path} has {size:,} pieces; this model has {self.config.vocab_size:,}")
        if end == self._pieces.unk_id():
            raise R2T2Error(f"{self.path} has no piece {END}: it is not MoAI's")
        config = dataclasses.replace(self.config, end_id=end, stop_ids=(self.config.eos_id, end))
        return dataclasses.replace(self, config=config)

    def encode(self, text: str) -> list[int]:
        """Token numbers, no beginning or end of sequence among them."""
        return list(self._pieces.encode(text, out_type=int))

    def prompt(self, user: str) -> Pieces:
        """A whole prompt in pieces."""
        return prompt_pieces(self.encode, user, self.config.bos_id)

    def verbalisation(self, text: str) -> list[int]:
        """The auxiliary text, beginning of sequence first."""
        return [self.config.bos_id, *self.encode(text)]

    def answer(self, text: str) -> list[int]:
        """An answer as it stands behind the opening of the assistant's turn, and the end of that turn."""
        opening, whole = self.encode(ASSISTANT), self.encode(ASSISTANT + text)
        own = whole[len(opening) :] if whole[: len(opening)] == opening else self.encode(text)
        return [*own, self.config.end_id]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens up to the one that stops decoding; padding and special numbers left out."""
        kept: list[int] = []
        for token in tokens:
            if token in self.config.stop_ids:
                break
            if token >= 0 and token not in (self.config.bos_id, self.config.eos_id, self.config.pad_id):
                kept.append(int(token))
        return str(self._pieces.decode(kept))
