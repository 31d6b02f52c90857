"""Retrieval: recall, build time, queries a second and memory of our indices and of what others use.

    python -m benchmarks.retrieval                 # N = 5,000, 45,000 and 500,000; M = 384 and 1024
    python -m benchmarks.retrieval --sizes 5000 45000 --minutes 1
    python -m benchmarks.retrieval --million       # a bank of 1,000,000 x 384: opening, and a batch of 1,000 queries
    python -m benchmarks.retrieval --doc           # write the tables of docs/bank.md again from what was recorded

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import write_results
from benchmarks.retrieval_engines import ENGINES
from benchmarks.retrieval_vectors import clustered, real_questions, truth
from r2t2_jax.reporting.tables import markdown_table

RESULTS = Path(__file__).parent / "results"
FIGURE = "retrieval.png"
PAGE = Path(__file__).parent.parent / "docs" / "bank.md"
NAMES = {
    "exact": "exact (ours)",
    "scann": "ScaNN (ours)",
    "sklearn": "scikit-learn",
    "faiss_flat": "FAISS flat",
    "faiss_ivf": "FAISS IVF",
    "hnswlib": "hnswlib",
}
QUERIES, K = 1000, 5
SIZES, WIDTHS = (5_000, 45_000, 500_000), (384, 1024)
BASELINE = "sklearn"
SEEN = 0.995  # a recall from here on is as good as whole in a picture


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
    """Measure; after every set of vectors write `results/retrieval.json`, or `retrieval_million.json`, and the figure.

    So a measurement that is cut short keeps what it has.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="N of the clustered vectors")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="M of the clustered vectors")
    parser.add_argument("--minutes", type=float, default=8, help="for one engine on one set of vectors")
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--doc", action="store_true")
    options = parser.parse_args()
    if options.doc:
        write_results(PAGE, page_tables(options.out))
        draw(all_runs(options.out), options.out / FIGURE)
        return
    name = "retrieval_million" if options.million else "retrieval"
    report = context() | {"runs": []}
    options.out.mkdir(parents=True, exist_ok=True)
    for run in [million(options.minutes)] if options.million else runs(options.sizes, options.widths, options.minutes):
        report["runs"].append(run)
        (options.out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        draw(all_runs(options.out), options.out / FIGURE)


def runs(sizes: Sequence[int], widths: Sequence[int], minutes: float) -> Iterator[dict[str, Any]]:
    """All comparisons, the small ones first."""
    for n in sizes:
        for m in widths:
            yield compare("clustered", *clustered(n, m, QUERIES), minutes)
        if n == min(sizes) and (questions := real_questions(QUERIES)) is not None:
            yield compare("real questions", *questions, minutes)


def files(folder: Path) -> list[Path]:
    """What was recorded, the million last."""
    return [path for name in ("retrieval", "retrieval_million") if (path := folder / f"{name}.json").exists()]


def all_runs(folder: Path) -> list[dict[str, Any]]:
    """Every comparison recorded."""
    return [run for path in files(folder) for run in json.loads(path.read_text("utf-8"))["runs"]]


def page_tables(folder: Path) -> str:
    """Rates with recall, and seconds to build, of everything recorded; and from when on ScaNN pays."""
    recorded = [json.loads(path.read_text("utf-8")) for path in files(folder)]
    runs = all_runs(folder)
    titles = [f"{run['n']:,} x {run['m']}" + ", questions" * (run["vectors"] != "clustered") for run in runs]

    def rows(tell: Callable[[dict[str, Any]], str]) -> list[list[str]]:
        return [[label, *(tell(run["engines"][engine]) for run in runs)] for engine, label in NAMES.items()]

    def rate(found: dict[str, Any]) -> str:
        return found.get("left_out") or f"{found['queries_per_second']:,.0f} ({found['recall']:.3f})"

    def building(found: dict[str, Any]) -> str:
        return (
            "" if "left_out" in found else f"{found['build_seconds']:,.1f} s, {found['memory_mib_beyond_vectors']:,.0f}"
        )

    where = f"`python -m benchmarks.retrieval`, and with `--million`: {recorded[0]['machine']}, {recorded[0]['date']}."
    table = markdown_table(["queries a second (recall at 5)", *titles], rows(rate), align_right=True)
    built = markdown_table(["to build, and MiB beyond the vectors", *titles], rows(building), align_right=True)
    pays = "; ".join(f"{title}: {pays_from(run['engines'])}" for title, run in zip(titles, runs, strict=True))
    opened = f"A bank of 1,000,000 x 384 opens in {recorded[1]['runs'][0]['open_seconds']:g} s."
    return "\n\n".join([where, table, built, f"Questions from which building ScaNN pays: {pays}. {opened}\n"])


def pays_from(engines: Mapping[str, Mapping[str, Any]]) -> str:
    """How many questions ScaNN must be asked until it and its building have taken no longer than exact search."""
    exact, scann = engines["exact"], engines["scann"]
    if "left_out" in exact or "left_out" in scann:
        return "unknown"
    saved = 1 / exact["queries_per_second"] - 1 / scann["queries_per_second"]  # seconds a question
    longer = scann["build_seconds"] - exact["build_seconds"]
    return f"{longer / saved:,.0f}" if saved > 0 else "never"


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Rate against references for the clustered vectors, a panel a width; a recall below 0.995 is written out."""
    from matplotlib.figure import Figure

    from r2t2_jax.reporting.style import MARKERS, SERIES, shared_style

    runs = [run for run in runs if run["vectors"] == "clustered"]
    widths = sorted({run["m"] for run in runs})
    with shared_style():
        figure = Figure(figsize=(3.6 * len(widths), 3.4), layout="constrained")
        panels = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
        for axes, width in zip(panels, widths, strict=True):
            for (engine, label), color, mark in zip(NAMES.items(), SERIES, MARKERS, strict=False):
                found = [(run["n"], run["engines"][engine]) for run in runs if run["m"] == width]
                points = [(n, one["queries_per_second"], one["recall"]) for n, one in found if "recall" in one]
                sizes, rates = [n for n, *_ in points], [rate for _, rate, _ in points]
                axes.plot(sizes, rates, color=color, marker=mark, label=label)
                for n, rate, recall in points:
                    if recall < SEEN:
                        axes.annotate(
                            f"recall {recall:.3f}", (n, rate), (2, -15), textcoords="offset points", ha="right"
                        )
            axes.set(xscale="log", yscale="log", title=f"{width} numbers a vector", xlabel="references")
        panels[0].set(ylabel="queries a second")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()
