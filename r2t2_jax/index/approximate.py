"""Approximate search with ScaNN (Guo et al. 2020, arXiv 1908.10396): partitions, quantised scores, exact ranking.

Parameters follow from the number of references N (`rule`); what they are worth is measured when the index is built, on
references held out from their own results, and stored with it.

Axis letters: B queries, K neighbours, C candidates, N bank size, M embedding size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from r2t2_jax.errors import R2T2Error
from r2t2_jax.index import ranking
from r2t2_jax.index.protocol import Hits, Metric, check_search, check_vectors
from r2t2_jax.index.storage import read_index, write_index

PARTITIONED = 20_000  # below, scoring all quantised rows costs less than choosing partitions
TRAINED = 100_000  # rows from which partitions and codes are learned
HELD_OUT, RECALL_K = 200, 5
CHUNK = 1 << 10  # queries at a time
SAME = 1e-6  # distances this close count as equal when recall is measured


@dataclass(frozen=True)
class ScannParameters:
    """How an index was built and is searched."""

    leaves: int
    searched: int
    reordered: int

    def check(self) -> None:
        """Refuse what cannot be searched."""
        if not 1 <= self.searched <= self.leaves:
            raise R2T2Error(f"{self.searched} of {self.leaves} partitions cannot be searched; choose between 1 and all")


def rule(n: int) -> ScannParameters:
    """Parameters for N references.

    Up to `PARTITIONED` rows one partition. Above, 2 sqrt(N) partitions, of which 5 % and at least 20 are searched; 200
    candidates of the quantised search are compared in full precision.
    """
    if n < PARTITIONED:
        return ScannParameters(1, 1, min(200, n))
    leaves = round(2 * n**0.5)
    return ScannParameters(leaves, min(leaves, max(20, round(leaves / 20))), 200)


@dataclass(frozen=True, eq=False)
class ScannIndex:
    """Make one with `ScannIndex.build`. `recall` is that at 5, of held-out references against exact search."""

    embeddings: Float[np.ndarray, "N M"]
    metric: Metric
    parameters: ScannParameters
    recall: float
    searcher: Any

    @classmethod
    def build(
        cls,
        embeddings: Float[np.ndarray, "N M"],
        metric: Metric = "cosine",
        min_recall: float = 0.0,
        parameters: ScannParameters | None = None,
    ) -> ScannIndex:
        """Learn partitions and codes, and measure the recall.

        Args:
            embeddings: unit vectors for `cosine`; held in memory once more by ScaNN.
            metric: cosine, dot or l2.
            min_recall: refuse an index that finds fewer of the 5 nearest.
            parameters: instead of those of `rule`.

        Raises:
            R2T2Error: ScaNN is not installed, the embeddings do not fit the metric, or the recall is too low.
        """
        check_vectors("reference embeddings", embeddings, metric)
        parameters = parameters or rule(len(embeddings))
        parameters.check()
        embeddings = np.asarray(embeddings, np.float32)
        made = cls(embeddings, metric, parameters, float("nan"), _build(embeddings, metric, parameters))
        made = cls(embeddings, metric, parameters, measure_recall(made), made.searcher)
        if not made.recall >= min_recall:
            raise R2T2Error(
                f"the index finds {made.recall:.1%} of the {RECALL_K} nearest of {HELD_OUT} held-out references, "
                f"{min_recall:.1%} are asked for; use exact search, or search more partitions than {parameters}"
            )
        return made

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(self, queries: Float[np.ndarray, "B M"], k: int) -> Hits:
        """About the k nearest references of each query, ranked by their exact distances.

        Raises:
            R2T2Error: k is not between 1 and N, or a query does not fit.
        """
        check_search(self, queries, k)
        queries = np.asarray(queries, np.float32)
        parts = [self._search(queries[first : first + CHUNK], k) for first in range(0, len(queries), CHUNK)]
        return Hits(*(np.concatenate(arrays) for arrays in zip(*(vars(part).values() for part in parts), strict=True)))

    def _search(self, queries: Float[np.ndarray, "B M"], k: int) -> Hits:
        candidates = min(len(self), 2 * k + 8)  # more than k: equal distances are ordered here, not by ScaNN
        indices, scores = self.searcher.search_batched(
            queries, candidates, pre_reorder_num_neighbors=max(self.parameters.reordered, 2 * candidates)
        )
        indices = np.where(np.isnan(scores), -1, indices.astype(np.int64))  # [B, C]; NaN: fewer were found
        return ranking.nearest(indices, ranking.distances(self.metric, queries, self.embeddings[indices]), k)

    def save(self, path: Path) -> None:
        """Write ScaNN's own files and `index.json`, which notes parameters and recall."""
        path.mkdir(parents=True, exist_ok=True)
        self.searcher.serialize(str(path), relative_path=True)
        write_index(path, "scann", self, {"parameters": asdict(self.parameters), "recall": self.recall})

    @classmethod
    def load(cls, path: Path, embeddings: Float[np.ndarray, "N M"]) -> ScannIndex:
        """An index saved for these embeddings.

        Raises:
            R2T2Error: ScaNN is not installed, or the index is incomplete, damaged or another bank's.
        """
        content = read_index(path, embeddings)
        with _quiet():
            try:
                searcher = _scann().load_searcher(str(path))
                parameters = ScannParameters(**content["parameters"])
                return cls(embeddings, content["metric"], parameters, content["recall"], searcher)
            except (KeyError, TypeError, RuntimeError, ValueError, OSError) as error:
                raise R2T2Error(f"the index in {path} is damaged ({error}); build it again") from error


def measure_recall(index: ScannIndex, seed: int = 0) -> float:
    """Share of the 5 nearest that are found for references which may not find themselves; ties count as found."""
    from r2t2_jax.index.exact import ExactIndex

    n = len(index)
    k = min(RECALL_K + 1, n)
    held_out = np.sort(np.random.default_rng(seed).choice(n, min(HELD_OUT, n), replace=False))
    queries = index.embeddings[held_out]
    found, true = index.search(queries, k), ExactIndex.build(index.embeddings, index.metric).search(queries, k)
    shares = []
    for own, hits, far, exact, limit in zip(
        held_out, found.indices, found.distances, true.indices, true.distances, strict=True
    ):
        others, wanted = far[hits != own], limit[exact != own][:RECALL_K]
        if len(wanted):
            shares.append(min(1.0, (others <= wanted[-1] + SAME).sum() / len(wanted)))
    return float(np.mean(shares)) if shares else 1.0


def _build(embeddings: Float[np.ndarray, "N M"], metric: Metric, parameters: ScannParameters) -> Any:
    measure = "squared_l2" if metric == "l2" else "dot_product"
    with _quiet():
        builder = _scann().builder(embeddings, RECALL_K, measure)
        if parameters.leaves > 1:
            builder = builder.tree(
                num_leaves=parameters.leaves,
                num_leaves_to_search=parameters.searched,
                training_sample_size=min(TRAINED, len(embeddings)),
            )
        anisotropic = float("nan") if metric == "l2" else 0.2  # errors along the vector cost more (section 3)
        builder = builder.score_ah(2, anisotropic_quantization_threshold=anisotropic)
        return builder.reorder(parameters.reordered).build()


def _scann() -> Any:
    """ScaNN's Python interface.

    Raises:
        R2T2Error: it is not installed; there are wheels for Linux on x86-64 alone.
    """
    try:
        return import_module("scann").scann_ops_pybind
    except ImportError as error:
        raise R2T2Error(
            "approximate search needs ScaNN, which is there for Linux on x86-64 with Python below 3.14: "
            "`pip install scann`, or use exact search (--index exact)"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """ScaNN's C++ part reports its progress on the error stream, whatever the caller wants; keep that out."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
