"""The protocol of an index, and its results.

Distances by metric: `cosine` and `l2` have the L2 distance |x - q| (of unit vectors, for cosine: R2-T2's d), `dot` the
negated inner product. Smaller is nearer in each; equal distances are ordered by index.

Axis letters: B queries, K neighbors, N bank size, M embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.checks import check_embeddings, check_squares

Metric = Literal["cosine", "dot", "l2"]
METRICS: tuple[Metric, ...] = get_args(Metric)
CHECKED_ROWS = 1 << 16  # rows checked at a time, which bounds the memory of a check
# Largest L2 distance of two unit vectors of one text: embedders compute in float32, in batches that round differently.
NOISE = 1e-5


@dataclass(frozen=True)
class Hits:
    """The nearest references of each query, nearest first. Masked entries are padding with an arbitrary index."""

    indices: Int[np.ndarray, "B K"]
    distances: Float[np.ndarray, "B K"]
    mask: Bool[np.ndarray, "B K"]


class Index(Protocol):
    """Search through a bank's embeddings."""

    @property
    def metric(self) -> Metric: ...

    @property
    def embeddings(self) -> Float[Array, "N M"] | Float[np.ndarray, "N M"]: ...

    def __len__(self) -> int: ...

    def search(self, queries: Float[np.ndarray, "B M"], k: int) -> Hits:
        """The k nearest references of each query; independent of the batch.

        Raises:
            R2T2Error: k is not between 1 and the number of references, or a query does not fit.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the index to a directory, for `load_index`, without the embeddings."""
        ...


def ball(index: Index, queries: Float[np.ndarray, "B M"], epsilon: float, k: int) -> Hits:
    """References at a distance of at most epsilon (R2-T2, equation 10), at most the k nearest."""
    hits = index.search(queries, k)
    return Hits(hits.indices, hits.distances, hits.mask & (hits.distances <= epsilon))


def check_vectors(name: str, vectors: Float[Array, "N M"] | Float[np.ndarray, "N M"], metric: Metric) -> None:
    """Refuse vectors that are not [rows, M], empty, not finite, too long or, for cosine, not of unit length.

    Raises:
        R2T2Error: names the row.
    """
    if metric not in METRICS:
        raise R2T2Error(f"unknown metric {metric!r}; choose one of {', '.join(METRICS)}")
    if vectors.ndim != 2 or vectors.shape[0] == 0:
        return check_embeddings(name, vectors)  # raises
    for first in range(0, len(vectors), CHECKED_ROWS):
        rows = vectors[first : first + CHECKED_ROWS]
        where = f"{name} from row {first}" if first else name
        check_embeddings(where, rows) if metric == "cosine" else check_squares(where, rows)


def check_search(index: Index, queries: Float[np.ndarray, "B M"] | Float[Array, "B M"], k: int) -> None:
    """Refuse a k or queries that do not fit the index.

    Raises:
        R2T2Error: names what does not fit.
    """
    if k < 1:
        raise R2T2Error(f"k={k} neighbors; it must be at least 1")
    if k > len(index):
        raise R2T2Error(f"k={k} neighbors from a bank of {len(index)} references; lower k or collect more")
    if queries.ndim == 2 and queries.shape[1] != index.embeddings.shape[1]:
        raise R2T2Error(
            f"query embeddings have size {queries.shape[1]}, the bank's {index.embeddings.shape[1]}: use one embedder"
        )
    check_vectors("query embeddings", queries, index.metric)
