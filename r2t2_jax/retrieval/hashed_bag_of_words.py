"""A question embedder of our own that needs no weights: hashed words.

Axis letters: B texts, M embedding size.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from r2t2_jax.contract import Embedder
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import load_embedder

HASHED = "hashed_words"


class HashedBagOfWords:
    """Words and pairs of neighbouring words, hashed with a sign into M places, damped by their logarithm.

    The "hashing trick" (Weinberger et al. 2009, arXiv 0902.2206) without weights, corpus or download: the same text
    gives the same vector everywhere. It knows no synonyms; a trained embedder finds better neighbours.
    """

    size = 512
    fingerprint = f"{HASHED}-{size}@1"

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "B M"]:
        """Unit vectors; a text without a word is the first axis."""
        vectors = np.zeros((len(texts), self.size), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            words = re.findall(r"\w+", text.lower())
            terms = Counter([*words, *(f"{first} {second}" for first, second in pairwise(words))])
            for term, count in terms.items():
                place, sign = _place(term, self.size)
                row[place] += sign * (1 + math.log(count))
            if not row.any():
                row[0] = 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@lru_cache(1 << 16)
def _place(term: str, size: int) -> tuple[int, int]:
    number = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")
    return number % size, 1 if number >> 63 else -1


def question_embedder(name: str) -> Embedder:
    """`hashed_words`, or what `load_embedder` finds by the name.

    Raises:
        R2T2Error: no such embedder, or its files are missing or damaged.
    """
    return HashedBagOfWords() if name == HASHED else load_embedder(name)


def default_embedder() -> Embedder:
    """MiniLM where its weights are installed, hashed words elsewhere."""
    try:
        return load_embedder("minilm")
    except (R2T2Error, ImportError, AttributeError):
        return HashedBagOfWords()
