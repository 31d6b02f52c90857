"""Candidates of exact search in the memory of a CPU: products of numpy's BLAS with a running threshold.

A sort of all scores takes as long as the product that computes them. Here one pass compares the maxima of groups of
scores with the score that is reached by the best rows so far, and only what is above is sorted.

Axis letters: B queries, C candidates, N bank size, M embedding size, R rows of a block, P pairs of a query and a row.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

GROUP = 16  # scores of which one maximum is compared with the threshold
EQUAL = 1e-6  # |x|^2 / 2 of unit vectors differ by less, so that the best rows are found without it
MANY = 16  # times as many pairs as are kept: more are equal scores


def half_squares(embeddings: Float[np.ndarray, "N M"], block: int) -> Float[np.ndarray, "N"]:
    """|x|^2 / 2 of every row, in float32, computed `block` rows at a time."""
    parts = (embeddings[first : first + block].astype(np.float32) for first in range(0, len(embeddings), block))
    return np.concatenate([np.einsum("rm,rm->r", part, part) / 2 for part in parts])


def best_rows(
    embeddings: Float[np.ndarray, "N M"],
    subtracted: Float[np.ndarray, "N"] | None,
    queries: Float[np.ndarray, "B M"],
    count: int,
    block: int,
) -> tuple[Float[np.ndarray, "B C"], Int[np.ndarray, "B C"]]:
    """Scores and indices of the `count` best rows, best first, block by block; equal scores by index.

    The maxima of groups of scores bound the score that the `count` best of a block reach, so that few scores are
    sorted.
    """
    n, b = len(embeddings), len(queries)
    late = subtracted is not None and np.ptp(subtracted) <= EQUAL  # one pass over each block less
    buffer = np.empty((b, min(block, n)), np.float32)
    best = np.full((b, count), -np.inf, np.float32), np.full((b, count), -1)
    for first in range(0, n, block):
        rows = embeddings[first : first + block].astype(np.float32, copy=False)
        scores = buffer if len(rows) == buffer.shape[1] else np.empty((b, len(rows)), np.float32)  # [B, R]
        np.matmul(queries, rows.T, out=scores)
        if subtracted is not None and not late:
            scores -= subtracted[first : first + block]
        query, place = _above(scores, best[0][:, -1], count)
        if not len(query):
            continue
        new = scores[query, place], place + first
        values, places = (np.concatenate([old.ravel(), part]) for old, part in zip(best, new, strict=True))
        owner = np.concatenate([np.repeat(np.arange(b), count), query])
        order = np.lexsort((places, -values, owner))
        kept = order[np.searchsorted(owner[order], np.arange(b))[:, None] + np.arange(count)]  # the first of each query
        best = values[kept], places[kept]
    if not late:
        return best
    assert subtracted is not None
    scores = best[0] - subtracted[best[1]]
    order = np.lexsort((best[1], -scores), axis=-1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(best[1], order, 1)


def _above(
    scores: Float[np.ndarray, "B R"], least: Float[np.ndarray, "B"], count: int
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """Queries and places of the scores of a block that may be among the `count` best: those above `least`, and before
    there are `count`, those that are not below the `count`-th largest maximum of a group.
    """
    b, rows = scores.shape
    size = rows // GROUP
    maxima = scores[:, : size * GROUP].reshape(b, GROUP, size).max(axis=1)  # [B, size]
    compare: np.ufunc
    if not np.isneginf(least).any():
        compare, limit = np.greater, least  # equal scores of later rows come after those of earlier rows
    elif size < count:
        return np.repeat(np.arange(b), rows), np.tile(np.arange(rows), b)
    else:
        compare, limit = np.greater_equal, np.partition(maxima, size - count, axis=1)[:, size - count]
    query, group = np.nonzero(compare(maxima, limit[:, None]))
    query, place = np.repeat(query, GROUP), (group[:, None] + size * np.arange(GROUP)).ravel()
    rest, behind = np.nonzero(compare(scores[:, size * GROUP :], limit[:, None]))
    query, place = np.concatenate([query, rest]), np.concatenate([place, behind + size * GROUP])
    reached = compare(scores[query, place], limit[query])
    if reached.sum() > MANY * b * count:  # equal scores, of which `_settle` ranks all
        place = np.argpartition(scores, rows - count, axis=1)[:, rows - count :]
        return np.repeat(np.arange(b), count), place.ravel()
    return query[reached], place[reached]
