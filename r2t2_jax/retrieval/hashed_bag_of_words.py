"""A question embedder without weights: a hashed bag of words.

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
    """Words and pairs of adjacent words, hashed with a sign into M entries; counts enter by their logarithm.

    The "hashing trick" (Weinberger et al. 2009, arXiv 0902.2206) without weights, corpus or download: the same text
    gives the same vector everywhere. Synonyms have unrelated vectors; a trained embedder finds better neighbors.
    """

    size = 512
    fingerprint = f"{HASHED}-{size}@1"

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "B M"]:
        """Unit vectors; a text without words gives the first basis vector."""
        vectors = np.zeros((len(texts), self.size), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            words = re.findall(r"\w+", text.lower())
            terms = Counter([*words, *(f"{first} {second}" for first, second in pairwise(words))])
            for term, count in terms.items():
                entry, sign = _entry(term, self.size)
                row[entry] += sign * (1 + math.log(count))
            if not row.any():
                row[0] = 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@lru_cache(1 << 16)
def _entry(term: str, size: int) -> tuple[int, int]:
    number = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")
    return number % size, 1 if number >> 63 else -1


def question_embedder(name: str) -> Embedder:
    """The embedder of this name: `hashed_words`, or an installed one (`load_embedder`).

    Raises:
        R2T2Error: no such embedder, or its files are missing or damaged.
    """
    return HashedBagOfWords() if name == HASHED else load_embedder(name)


def default_embedder() -> Embedder:
    """MiniLM if its weights are installed, otherwise hashed words."""
    try:
        return load_embedder("minilm")
    except (R2T2Error, ImportError, AttributeError):
        return HashedBagOfWords()
