"""Approximate search with ScaNN (Guo et al. 2020, arXiv 1908.10396): partitions, quantized scores, exact ranking.

Parameters follow from the number of references N (`rule`). The recall is measured when the index is built, on held-out
references; more partitions are searched until it reaches `AIM`. Parameters and recall are stored.

Axis letters: B queries, K neighbors, C candidates, N bank size, M embedding size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float, Int

from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval import exact as ranking
from r2t2_jax.retrieval.exact import ExactIndex, read_index, write_index
from r2t2_jax.retrieval.protocol import Hits, Metric, check_search, check_vectors

PARTITIONED = 20_000  # below, scoring all quantized rows costs less than choosing partitions
PER_LEAF = 20  # rows from which a partition is learned
LEAST = 5  # least size of a partition; ScaNN's default of 50 would merge most of them
AIM = 0.99  # recall
HELD_OUT, RECALL_K = 200, 5
CHUNK = 1 << 10  # queries at a time
SAME = 1e-6  # distances this close count as equal when recall is measured


@dataclass(frozen=True)
class ScannParameters:
    """Parameters of the build and the search of an index."""

    leaves: int
    searched: int
    reordered: int

    def check(self) -> None:
        """Refuse parameters that cannot be searched."""
        if not 1 <= self.searched <= self.leaves:
            raise R2T2Error(f"{self.searched} of {self.leaves} partitions cannot be searched; choose between 1 and all")


def rule(n: int) -> ScannParameters:
    """Parameters for N references.

    Below `PARTITIONED` rows one partition. Above, 4 sqrt(N) partitions, of which 2.5 % and at least 20 are searched.
    The 200 best candidates of the quantized search are compared in full precision.
    """
    if n < PARTITIONED:
        return ScannParameters(1, 1, min(200, n))
    leaves = round(4 * n**0.5)
    return ScannParameters(leaves, max(20, leaves // 40), 200)


@dataclass(frozen=True, eq=False)
class ScannIndex:
    """An index built by `ScannIndex.build`. `recall` is the recall at 5 of held-out references against exact search."""

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
        """Learn partitions and codes, measure the recall, and search more partitions if it is below `AIM`.

        Args:
            embeddings: unit vectors for `cosine`; ScaNN holds a second copy in memory.
            metric: cosine, dot or l2.
            min_recall: refuse an index that finds fewer of the 5 nearest.
            parameters: fixed ones instead of those of `rule`.

        Raises:
            R2T2Error: ScaNN is not installed, the embeddings do not fit the metric, or the recall is too low.
        """
        check_vectors("reference embeddings", embeddings, metric)
        chosen = parameters or rule(len(embeddings))
        chosen.check()
        embeddings = np.asarray(embeddings, np.float32)
        index = cls(embeddings, metric, chosen, float("nan"), _build(embeddings, metric, chosen))
        held_out = HeldOut.of(embeddings, metric)
        index = replace(index, recall=held_out.recall(index))
        while parameters is None and index.recall < AIM and index.parameters.searched < index.parameters.leaves:
            more = replace(index.parameters, searched=min(2 * index.parameters.searched, index.parameters.leaves))
            index = replace(index, parameters=more)
            index = replace(index, recall=held_out.recall(index))
        if not index.recall >= min_recall:
            raise R2T2Error(
                f"the index finds {index.recall:.1%} of the {RECALL_K} nearest of {HELD_OUT} held-out references, "
                f"{min_recall:.1%} are required; use exact search, or search more partitions than {index.parameters}"
            )
        return index

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
            queries,
            candidates,
            leaves_to_search=self.parameters.searched,
            pre_reorder_num_neighbors=max(self.parameters.reordered, 2 * candidates),
        )
        indices = np.where(np.isnan(scores), -1, indices.astype(np.int64))  # [B, C]; NaN if there are fewer
        return ranking.nearest(indices, ranking.distances(self.metric, queries, self.embeddings[indices]), k)

    def save(self, path: Path) -> None:
        """Write ScaNN's own files and `index.json` with parameters and recall."""
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
                parameters = msgspec.convert(content["parameters"], ScannParameters)
                recall = msgspec.convert(content["recall"], float)
                return cls(embeddings, content["metric"], parameters, recall, searcher)
            except (KeyError, TypeError, RuntimeError, ValueError, OSError) as error:
                raise R2T2Error(f"the index in {path} is damaged ({error}); build it again") from error


@dataclass(frozen=True)
class HeldOut:
    """References used as queries, with their exact nearest neighbors."""

    rows: Int[np.ndarray, "B"]
    queries: Float[np.ndarray, "B M"]
    limits: Float[np.ndarray, "B"]  # distance of the last of the 5
    count: int  # 5, or as many others as there are

    @classmethod
    def of(cls, embeddings: Float[np.ndarray, "N M"], metric: Metric, seed: int = 0) -> HeldOut:
        """Some of the references, drawn by the seed, searched exactly."""
        n = len(embeddings)
        count = min(RECALL_K, n - 1)
        rows = np.sort(np.random.default_rng(seed).choice(n, min(HELD_OUT, n), replace=False))
        true = ExactIndex.build(embeddings, metric).search(embeddings[rows], count + 1)
        others = np.where(true.indices == rows[:, None], -np.inf, true.distances)
        others.sort(axis=1)  # drops the query itself, or the nearest if it is missing
        return cls(rows, embeddings[rows], others[:, -1], count)

    def recall(self, index: ScannIndex) -> float:
        """Share of the nearest neighbors in the results; ties with the last neighbor count."""
        if self.count == 0:
            return 1.0
        hits = index.search(self.queries, self.count + 1)
        near = (hits.indices != self.rows[:, None]) & (hits.distances <= self.limits[:, None] + SAME)
        return float(np.minimum(near.sum(axis=1), self.count).mean() / self.count)


def _build(embeddings: Float[np.ndarray, "N M"], metric: Metric, parameters: ScannParameters) -> Any:
    measure = "squared_l2" if metric == "l2" else "dot_product"
    with _quiet():
        builder = _scann().builder(embeddings, RECALL_K, measure)
        if parameters.leaves > 1:
            builder = builder.tree(
                num_leaves=parameters.leaves,
                num_leaves_to_search=parameters.searched,
                training_sample_size=min(PER_LEAF * parameters.leaves, len(embeddings)),
                min_partition_size=LEAST,
            )
        anisotropic = float("nan") if metric == "l2" else 0.2  # errors along the vector cost more (section 3)
        builder = builder.score_ah(2, anisotropic_quantization_threshold=anisotropic)
        return builder.reorder(parameters.reordered).build()


def _scann() -> Any:
    """ScaNN's Python interface.

    Raises:
        R2T2Error: it is not installed; wheels exist for Linux on x86-64 only.
    """
    try:
        return import_module("scann").scann_ops_pybind
    except ImportError as error:
        raise R2T2Error(
            "approximate search needs ScaNN, which is available for Linux on x86-64 with Python below 3.14: "
            "`pip install scann`, or use exact search (--index exact)"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard the error stream of ScaNN's C++ code, which reports its progress there."""
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)
