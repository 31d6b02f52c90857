"""Measures one engine in this process: `python -m benchmarks.retrieval_engines ENGINE FOLDER K`.

FOLDER contains `references.npy`, `queries.npy` and `truth.npy`; one line of JSON goes to the standard output.

Axis letters: B queries, K neighbors, N references, M embedding size.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPEATS, SECONDS = 5, 30.0  # largest number of query batches; no further batch starts after this time
Search = Callable[[np.ndarray, int], np.ndarray]


def exact(references: np.ndarray) -> Search:
    """Our exact index."""
    from r2t2_jax.retrieval.exact import ExactIndex

    index = ExactIndex.build(references)
    return lambda queries, k: index.search(queries, k).indices


def scann(references: np.ndarray) -> Search:
    """Our ScaNN index."""
    from r2t2_jax.retrieval.scann import ScannIndex

    index = ScannIndex.build(references)
    return lambda queries, k: index.search(queries, k).indices


def sklearn(references: np.ndarray) -> Search:
    """The index of the authors' code; in these dimensions it compares with every reference."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors().fit(references)
    return lambda queries, k: index.kneighbors(queries, k, return_distance=False)


def faiss_flat(references: np.ndarray) -> Search:
    """FAISS with exact search."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(references.shape[1])
    index.add(references)
    return lambda queries, k: index.search(queries, k)[1]


def faiss_ivf(references: np.ndarray) -> Search:
    """FAISS with as many partitions as our ScaNN index, and as many of them searched."""
    import faiss

    faiss.omp_set_num_threads(1)
    size, leaves = references.shape[1], round(2 * len(references) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, leaves, faiss.METRIC_INNER_PRODUCT)
    index.train(references[np.random.default_rng(0).permutation(len(references))[:100_000]])
    index.add(references)
    index.nprobe = max(20, leaves // 20)
    return lambda queries, k: index.search(queries, k)[1]


def hnswlib(references: np.ndarray) -> Search:
    """A graph index with the parameters of its README and a longer search."""
    import hnswlib

    index = hnswlib.Index(space="ip", dim=references.shape[1])
    index.init_index(max_elements=len(references), ef_construction=200, M=16)
    index.add_items(references, num_threads=1)
    index.set_ef(100)
    return lambda queries, k: index.knn_query(queries, k, num_threads=1)[0]


ENGINES: dict[str, Callable[[np.ndarray], Search]] = {
    "exact": exact,
    "scann": scann,
    "sklearn": sklearn,
    "faiss_flat": faiss_flat,
    "faiss_ivf": faiss_ivf,
    "hnswlib": hnswlib,
}


def recall(references: np.ndarray, queries: np.ndarray, retrieved: np.ndarray, true: np.ndarray) -> float:
    """The share of nearest neighbors retrieved, by float64 distances; ties with the last true neighbor count."""
    shares = []
    for query, hits, nearest in zip(queries.astype(np.float64), retrieved, true, strict=False):  # truth has fewer rows
        distances = np.linalg.norm(references[hits[hits >= 0]].astype(np.float64) - query, axis=1)
        limit = np.linalg.norm(references[nearest].astype(np.float64) - query, axis=1).max()
        shares.append((distances <= limit + 1e-9).sum() / len(nearest))
    return float(np.mean(shares))


def report(engine: str, folder: Path, k: int) -> dict[str, Any]:
    """Build an index, search, and compare with the true neighbors.

    Times are CPU times, which depend little on other processes.
    """
    references, queries, true = (np.load(folder / f"{name}.npy") for name in ("references", "queries", "truth"))
    before = _memory("VmRSS")
    start = time.process_time()
    search = ENGINES[engine](references)
    build = time.process_time() - start
    retrieved = search(queries, k)  # compiles if necessary
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < SECONDS:
        start = time.process_time()
        retrieved = search(queries, k)
        seconds.append(time.process_time() - start)
    return {
        "recall": round(recall(references, queries, retrieved, true), 4),
        "build_seconds": round(build, 3),
        "queries_per_second": round(len(queries) / statistics.median(seconds), 1),
        "repeats": len(seconds),
        "memory_mib_beyond_vectors": round((_memory("VmHWM") - before) / 1024, 1),
    }


def _memory(name: str) -> int:
    """A memory size of this process in KiB: the current one (VmRSS) or the peak (VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)


if __name__ == "__main__":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before a library counts the cores
    print(json.dumps(report(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
