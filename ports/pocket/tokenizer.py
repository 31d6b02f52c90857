"""Whole-word tokenizer: the pocket language has a closed vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

PAD, UNKNOWN, BEGIN, END = range(4)
SPECIAL = ("<pad>", "<unknown>", "<answer>", "<end>")


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+|[?,]", text.lower())


@dataclass(frozen=True)
class Tokenizer:
    """Whole-word tokenizer; `words` follow the four special tokens."""

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(SPECIAL) + len(self.words)

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text; words outside the vocabulary become `<unknown>`."""
        number = {word: i for i, word in enumerate(self.words, start=len(SPECIAL))}
        return [number.get(word, UNKNOWN) for word in _words(text)]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that become `<unknown>`, each once; the whole text if no word is found in it."""
        words = dict.fromkeys(_words(text) or [text.strip()])
        return [word for word in words if word not in self.words]

    def pad(self, texts: Sequence[str], length: int) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """Questions as padded tokens and mask, truncated to `length`."""
        tokens = np.full((len(texts), length), PAD, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            ids = self.encode(text)[:length]
            row[: len(ids)] = ids
        return tokens, tokens != PAD

    def pad_answers(self, texts: Sequence[str], length: int) -> tuple[Int[np.ndarray, "B A"], Bool[np.ndarray, "B A"]]:
        """Answers as padded tokens and mask; all end with the end-of-turn token, truncated ones too."""
        tokens = np.full((len(texts), length), PAD, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            ids = [*self.encode(text)[: length - 1], END]
            row[: len(ids)] = ids
        return tokens, tokens != PAD

    def decode(self, tokens: Sequence[int]) -> str:
        """Text up to the end-of-turn token."""
        words = []
        for token in tokens:
            if token in (END, PAD):
                break
            words.append(SPECIAL[token] if token < len(SPECIAL) else self.words[token - len(SPECIAL)])
        return " ".join(words)
