"""Retrieval: recall, build time, queries a second and memory of our indices and of what others use.

    python -m benchmarks.retrieval                 # N = 5,000, 45,000 and 500,000; M = 384 and 1024
    python -m benchmarks.retrieval --sizes 5000 45000 --minutes 1
    python -m benchmarks.retrieval --million       # a bank of 1,000,000 x 384: opening, and a batch of 1,000 queries

Ours (exact, ScaNN) against scikit-learn's NearestNeighbors, which the R2-T2 authors' code uses, FAISS (flat, IVF) and
hnswlib; one that is not installed is left out and named. Each runs in a process of its own, bound to one CPU core;
times are the processor's.
Vectors are random and clustered (200 a cluster), or MiniLM's of 6,000 real questions in the folder R2T2_SAMPLES.

Axis letters: N references, M embedding size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.retrieval_engines import ENGINES
from benchmarks.retrieval_vectors import clustered, real_questions, truth

RESULTS = Path(__file__).parent / "results"
QUERIES, K = 1000, 5
SIZES, WIDTHS = (5_000, 45_000, 500_000), (384, 1024)
BASELINE = "sklearn"


def measure(folder: Path, engine: str, minutes: float) -> dict[str, Any]:
    """What a fresh process on one core reports of one engine; or why it reports nothing."""
    command = [sys.executable, "-m", "benchmarks.retrieval_engines", engine, str(folder), str(K)]
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        done = subprocess.run(
            command, env=os.environ | single, capture_output=True, text=True, timeout=60 * minutes, check=False
        )
    except subprocess.TimeoutExpired:
        return {"left_out": f"more than {minutes:g} minutes"}
    if done.returncode:
        return {"left_out": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, references: np.ndarray, queries: np.ndarray, minutes: float) -> dict[str, Any]:
    """All engines on one set of vectors; rates also as multiples of scikit-learn's."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        nearest, asked = truth(references, queries, K)
        for file, array in {"references": references, "queries": queries, "truth": nearest}.items():
            np.save(folder / f"{file}.npy", array)
        report: dict[str, Any] = {
            "vectors": name,
            "n": len(references),
            "m": references.shape[1],
            "recall_queries": asked,
        }
        report["engines"] = {}
        for engine in ENGINES:
            found = measure(folder, engine, minutes)
            report["engines"][engine] = found
            print(f"{name} N={len(references):,} M={references.shape[1]} {engine}: {found}", flush=True)
    base = report["engines"][BASELINE].get("queries_per_second")
    for found in report["engines"].values():
        if base and "queries_per_second" in found:
            found["times_sklearn"] = round(found["queries_per_second"] / base, 2)
    return report


def million(minutes: float) -> dict[str, Any]:
    """The bank of a million references: how long it takes to open, and ScaNN against scikit-learn on one batch."""
    from benchmarks.retrieval_vectors import million_bank

    with tempfile.TemporaryDirectory() as scratch:
        references, queries = clustered(1_000_000, 384, QUERIES)
        seconds = million_bank(Path(scratch) / "bank", references)
        print(f"opened in {seconds} s", flush=True)
        return {"open_seconds": seconds} | compare("clustered", references, queries, minutes)


def context() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    load = os.getloadavg()[0]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"one of {os.cpu_count()} CPU cores, {platform.machine()}",
        "python": platform.python_version(),
        "load_average_at_start": round(load, 1),
        "queries": QUERIES,
        "k": K,
    }


def main() -> None:
    """Measure; after every set of vectors write `results/retrieval.json` (or `retrieval_million.json`) and a figure.

    So a measurement that is cut short keeps what it has.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="N of the clustered vectors")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="M of the clustered vectors")
    parser.add_argument("--minutes", type=float, default=8, help="for one engine on one set of vectors")
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    name = "retrieval_million" if options.million else "retrieval"
    report = context() | {"runs": []}
    options.out.mkdir(parents=True, exist_ok=True)
    for run in [million(options.minutes)] if options.million else runs(options.sizes, options.widths, options.minutes):
        report["runs"].append(run)
        (options.out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        draw(report["runs"], options.out / f"{name}.png")


def runs(sizes: Sequence[int], widths: Sequence[int], minutes: float) -> Iterator[dict[str, Any]]:
    """All comparisons, the small ones first."""
    for n in sizes:
        for m in widths:
            yield compare("clustered", *clustered(n, m, QUERIES), minutes)
        if n == min(sizes) and (questions := real_questions(QUERIES)) is not None:
            yield compare("real questions", *questions, minutes)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Recall against rate, a panel for each set of vectors."""
    from matplotlib.figure import Figure

    from r2t2_jax.reporting.style import MARKS, SERIES, shared_style

    with shared_style():
        columns = min(3, len(runs))
        figure = Figure(figsize=(3.2 * columns, 2.8 * -(-len(runs) // columns)), layout="constrained")
        for place, run in enumerate(runs):
            axes = figure.add_subplot(-(-len(runs) // columns), columns, place + 1)
            for engine, color, mark in zip(ENGINES, SERIES, MARKS, strict=False):
                found = run["engines"][engine]
                if "recall" in found:
                    axes.scatter(found["queries_per_second"], found["recall"], color=color, marker=mark, label=engine)
            axes.set(xscale="log", title=f"{run['vectors']}, {run['n']:,} x {run['m']}", xlabel="queries a second")
            axes.set(ylabel=f"recall at {K}")
        axes.legend(fontsize="x-small")
        figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()
