"""One engine, measured in this process alone: `python -m benchmarks.retrieval_engines ENGINE FOLDER K`.

FOLDER holds `references.npy`, `queries.npy` and `truth.npy`; one line of JSON goes to the standard output.

Axis letters: B queries, K neighbours, N references, M embedding size.
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

REPEATS, SECONDS = 5, 30.0  # of the query batch; no further one is begun after so many seconds
Search = Callable[[np.ndarray, int], np.ndarray]


def exact(references: np.ndarray) -> Search:
    """Ours."""
    from r2t2_jax.retrieval.exact import ExactIndex

    index = ExactIndex.build(references)
    return lambda queries, k: index.search(queries, k).indices


def scann(references: np.ndarray) -> Search:
    """Ours."""
    from r2t2_jax.retrieval.scann import ScannIndex

    index = ScannIndex.build(references)
    return lambda queries, k: index.search(queries, k).indices


def sklearn(references: np.ndarray) -> Search:
    """What the authors' code uses; in these dimensions it compares with every reference."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors().fit(references)
    return lambda queries, k: index.kneighbors(queries, k, return_distance=False)


def faiss_flat(references: np.ndarray) -> Search:
    """Exact."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(references.shape[1])
    index.add(references)
    return lambda queries, k: index.search(queries, k)[1]


def faiss_ivf(references: np.ndarray) -> Search:
    """As many partitions as our rule makes, as many of them searched."""
    import faiss

    faiss.omp_set_num_threads(1)
    size, leaves = references.shape[1], round(2 * len(references) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, leaves, faiss.METRIC_INNER_PRODUCT)
    index.train(references[np.random.default_rng(0).permutation(len(references))[:100_000]])
    index.add(references)
    index.nprobe = max(20, leaves // 20)
    return lambda queries, k: index.search(queries, k)[1]


def hnswlib(references: np.ndarray) -> Search:
    """A graph; parameters of its README, with a longer search."""
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


def recall(references: np.ndarray, queries: np.ndarray, found: np.ndarray, true: np.ndarray) -> float:
    """Share of the nearest found, by float64 distances: one as near as the last true one counts."""
    shares = []
    for query, hits, nearest in zip(queries.astype(np.float64), found, true, strict=False):  # truth has fewer rows
        far = np.linalg.norm(references[hits[hits >= 0]].astype(np.float64) - query, axis=1)
        limit = np.linalg.norm(references[nearest].astype(np.float64) - query, axis=1).max()
        shares.append((far <= limit + 1e-9).sum() / len(nearest))
    return float(np.mean(shares))


def report(engine: str, folder: Path, k: int) -> dict[str, Any]:
    """Build, search, and compare with the truth.

    Seconds are of processor time: on one core and one thread a quiet machine shows the same, a busy one nearly so.
    """
    references, queries, true = (np.load(folder / f"{name}.npy") for name in ("references", "queries", "truth"))
    before = _memory("VmRSS")
    start = time.process_time()
    search = ENGINES[engine](references)
    build = time.process_time() - start
    found = search(queries, k)  # compiles, where there is something to compile
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < SECONDS:
        start = time.process_time()
        found = search(queries, k)
        seconds.append(time.process_time() - start)
    return {
        "recall": round(recall(references, queries, found, true), 4),
        "build_seconds": round(build, 3),
        "queries_per_second": round(len(queries) / statistics.median(seconds), 1),
        "repeats": len(seconds),
        "memory_mib_beyond_vectors": round((_memory("VmHWM") - before) / 1024, 1),
    }


def _memory(name: str) -> int:
    """A size in KiB that the system tells of this process: what it uses now (VmRSS), or ever used (VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)


if __name__ == "__main__":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before anything counts the cores
    print(json.dumps(report(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
