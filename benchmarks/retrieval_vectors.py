"""Vectors for `retrieval.py`: clustered vectors, embeddings of real questions, and their true neighbors.

Axis letters: B queries, K neighbors, N references, M embedding size.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

PER_CLUSTER, SPREAD = 200, 0.7
BLOCK = 20_000  # references at a time
MAX_MULTIPLICATIONS = 10**11  # of the true neighbors; for larger banks they are computed for fewer queries
REAL = 5_000  # references of real questions
QUESTION_KEYS = ("question", "text", "Text")


def clustered(n: int, m: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around random centers, as questions with the same template have similar embeddings; also queries."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(max(1, n // PER_CLUSTER), m)).astype(np.float32)

    def draw(count: int) -> np.ndarray:
        vectors = centers[rng.integers(0, len(centers), count)]
        vectors += SPREAD * rng.standard_normal((count, m), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    return draw(n), draw(queries)


def real_questions(queries: int) -> tuple[np.ndarray, np.ndarray] | None:
    """MiniLM's embeddings of distinct questions in R2T2_SAMPLES as references and queries; `None` if one is missing."""
    from r2t2_jax.errors import R2T2Error
    from r2t2_jax.plugins import load_embedder

    folder = Path(os.environ.get("R2T2_SAMPLES", "../shared/samples"))
    texts = sorted({text for path in sorted(folder.rglob("*.json*")) for text in _questions(path)})
    try:
        embedder = load_embedder("minilm")
    except (R2T2Error, ImportError):
        return None
    if len(texts) < REAL + queries:
        return None
    chosen = np.random.default_rng(0).permutation(len(texts))[: REAL + queries]
    vectors = np.asarray(embedder.embed([texts[i] for i in chosen]), np.float32)
    return vectors[queries:], vectors[:queries]


def _questions(path: Path) -> list[str]:
    """All question texts in a JSON or JSONL file, at any depth; the first line of a prompt."""
    try:
        text = path.read_text(encoding="utf-8")
        content = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    except ValueError:
        return []
    questions: list[str] = []
    waiting = [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            questions += [node[key].split("\n")[0] for key in QUESTION_KEYS if isinstance(node.get(key), str)]
            waiting += [value for value in node.values() if isinstance(value, dict | list)]
        elif isinstance(node, list):
            waiting += node
    return [question for question in questions if question.strip()]


def truth(references: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, int]:
    """The k nearest references of the first queries by brute force in float64, and the number of these queries."""
    count = int(min(len(queries), max(50, MAX_MULTIPLICATIONS // references.size)))
    exact = queries[:count].astype(np.float64)
    best = np.full((count, 0), 0.0)
    ids = np.zeros((count, 0), int)
    for first in range(0, len(references), BLOCK):
        block = references[first : first + BLOCK].astype(np.float64)
        square = np.square(block).sum(axis=1) - 2 * exact @ block.T  # |x|^2 - 2 x.q orders as the distance does
        best, ids = np.hstack([best, square]), np.hstack([ids, np.tile(first + np.arange(len(block)), (count, 1))])
        order = np.argsort(best, axis=1, kind="stable")[:, :k]
        best, ids = np.take_along_axis(best, order, 1), np.take_along_axis(ids, order, 1)
    return ids, count


def million_bank(folder: Path, references: np.ndarray) -> float:
    """Write a bank with these embeddings, and return the seconds to open it."""
    from r2t2_jax.bank import ReferenceBank

    routing = np.random.default_rng(1).random((len(references), 4, 6), np.float32)
    ReferenceBank(None, None, routing, references).save(folder)
    start = time.perf_counter()
    bank = ReferenceBank.open(folder)
    seconds = time.perf_counter() - start
    assert len(bank) == len(references)
    return round(seconds, 3)
