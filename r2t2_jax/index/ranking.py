"""Distances in double precision: what decides the order, whoever proposed the candidates.

A matrix product rounds a row differently with its place in the matrix and with the number of rows, so that equal
vectors (the same question on two images) may get unequal scores. Here every pair is summed by itself.

Axis letters: B queries, C candidates, K neighbours, M embedding size.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from r2t2_jax.index.protocol import Hits, Metric

NUMBERS = 1 << 20  # compared at a time: 8 MiB stay in the cache


def distances(
    metric: Metric, queries: Float[np.ndarray, "B M"], candidates: Float[np.ndarray, "B C M"]
) -> Float[np.ndarray, "B C"]:
    """The metric's distance of every query to each of its candidates."""
    found = np.empty(candidates.shape[:2])
    step = max(1, NUMBERS // max(1, candidates[0].size))
    for first in range(0, len(queries), step):
        part = slice(first, first + step)
        rows, query = candidates[part].astype(np.float64), queries[part].astype(np.float64)[:, None]
        found[part] = -(rows * query).sum(axis=-1) if metric == "dot" else np.sqrt(np.square(rows - query).sum(axis=-1))
    return found


def nearest(indices: Int[np.ndarray, "B C"], distance: Float[np.ndarray, "B C"], k: int) -> Hits:
    """The k nearest candidates; equal distances by index. A candidate with a negative index is no candidate."""
    distance = np.where(indices < 0, np.inf, distance)
    order = np.lexsort((indices, distance), axis=-1)[:, :k]
    found, far = np.take_along_axis(indices, order, 1), np.take_along_axis(distance, order, 1)
    return Hits(np.maximum(found, 0), far, np.isfinite(far))
