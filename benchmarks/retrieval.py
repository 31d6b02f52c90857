"""Recall, build time, queries per second and memory of our indices and of other libraries.

    python -m benchmarks.retrieval                 # N = 5,000, 45,000 and 500,000; M = 384 and 1024
    python -m benchmarks.retrieval --sizes 5000 45000 --minutes 1
    python -m benchmarks.retrieval --million       # a bank of 1,000,000 x 384: open it, and search 1,000 queries
    python -m benchmarks.retrieval --engines exact faiss_flat --rounds 3    # on a machine with other work
    python -m benchmarks.retrieval --doc           # rewrite the tables of docs/bank.md from the recorded numbers

Our indices (exact, ScaNN) are compared with scikit-learn's NearestNeighbors, which the R2-T2 authors' code uses, FAISS
(flat, IVF) and hnswlib; a library that is not installed is reported as left out. Each engine runs in a separate process
on one CPU core; times are CPU times. Other processes slow these down too, as they share caches and cores: `--rounds`
measures the engines in turn several times, and the fastest round of each counts. Recorded results of engines and sizes
that are not measured again stay, with their date. The vectors are random and clustered (200 per cluster), or MiniLM's
embeddings of 6,000 real questions in the folder R2T2_SAMPLES.

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
from dataclasses import dataclass
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
STYLE = Path(__file__).parent / "figures.mplstyle"
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
VECTORS = ("vectors", "n", "m")  # identify a run
FULL_RECALL = 0.995  # the figure states recalls below this


def measure(folder: Path, engine: str, minutes: float) -> dict[str, Any]:
    """The measurements of one engine in a separate process on one core, or the reason why there are none."""
    command = [sys.executable, "-m", "benchmarks.retrieval_engines", engine, str(folder), str(K)]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if engine.startswith("faiss") and "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        one_thread["OPENBLAS_CORETYPE"] = "SKYLAKEX"  # its own choice is four times slower on some of these processors
    try:
        completed = subprocess.run(
            command, env=os.environ | one_thread, capture_output=True, text=True, timeout=60 * minutes, check=False
        )
    except subprocess.TimeoutExpired:
        return {"left_out": f"more than {minutes:g} minutes"}
    if completed.returncode:
        return {"left_out": (completed.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(completed.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Settings:
    """Engines to measure, the time limit of each in minutes, and the number of rounds."""

    engines: Sequence[str]
    minutes: float
    rounds: int

    def measure(self, folder: Path) -> dict[str, dict[str, Any]]:
        """The fastest round of each engine, with date and load."""
        best: dict[str, dict[str, Any]] = {}
        for _ in range(self.rounds):
            for engine in self.engines:
                about = {"date": datetime.now(UTC).date().isoformat(), "load": round(os.getloadavg()[0], 1)}
                result = measure(folder, engine, self.minutes) | about
                print(f"{engine}: {result}", flush=True)
                if rate_of(result) >= rate_of(best.get(engine, {})):
                    best[engine] = result
        return best


def rate_of(result: Mapping[str, Any]) -> float:
    """Queries per second; 0 if the engine was left out."""
    return float(result.get("queries_per_second", 0.0))


def compare(name: str, references: np.ndarray, queries: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Measure engines on one set of vectors."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        nearest, count = truth(references, queries, K)
        for file, array in {"references": references, "queries": queries, "truth": nearest}.items():
            np.save(folder / f"{file}.npy", array)
        report: dict[str, Any] = {
            "vectors": name,
            "n": len(references),
            "m": references.shape[1],
            "recall_queries": count,
        }
        print(f"{name} N={len(references):,} M={references.shape[1]}", flush=True)
        return report | {"engines": settings.measure(folder)}


def merge(recorded: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """A run with the recorded results of engines that it did not measure; rates also as multiples of scikit-learn's."""
    engines = {
        engine: {name: value for name, value in result.items() if name != "times_sklearn"}
        for engine in ENGINES
        if (result := run["engines"].get(engine) or recorded.get("engines", {}).get(engine))
    }
    base = rate_of(engines.get(BASELINE, {}))
    for result in engines.values():
        if base and rate_of(result):
            result["times_sklearn"] = round(rate_of(result) / base, 2)
    return {**recorded, **run, "engines": engines}


def million(settings: Settings) -> dict[str, Any]:
    """The time to open a bank of a million references, and the engines on one batch of queries."""
    from benchmarks.retrieval_vectors import million_bank

    with tempfile.TemporaryDirectory() as scratch:
        references, queries = clustered(1_000_000, 384, QUERIES)
        seconds = million_bank(Path(scratch) / "bank", references)
        print(f"opened in {seconds} s", flush=True)
        return {"open_seconds": seconds} | compare("clustered", references, queries, settings)


def context() -> dict[str, Any]:
    """The date, machine and settings of the measurement."""
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
    """Measure, and write `results/retrieval.json` or `retrieval_million.json` and the figure.

    They are written after every set of vectors, so that an interrupted measurement keeps its results.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="N of the clustered vectors")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="M of the clustered vectors")
    parser.add_argument("--minutes", type=float, default=8, help="time limit for one engine on one set of vectors")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=tuple(ENGINES), help="engines to measure")
    parser.add_argument("--rounds", type=int, default=1, help="rounds, of which the fastest of each engine counts")
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--doc", action="store_true")
    options = parser.parse_args()
    if options.doc:
        write_results(PAGE, page_tables(options.out))
        draw(all_runs(options.out), options.out / FIGURE)
        return
    settings = Settings(options.engines, options.minutes, options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{'retrieval_million' if options.million else 'retrieval'}.json"
    report = dated(json.loads(path.read_text("utf-8"))) if path.exists() else {"runs": []}
    report |= context()
    measured = [million(settings)] if options.million else runs(options.sizes, options.widths, settings)
    for run in measured:
        same = [tuple(each[name] for name in VECTORS) for each in report["runs"]]
        key = tuple(run[name] for name in VECTORS)
        if key in same:
            place = same.index(key)
            report["runs"][place] = merge(report["runs"][place], run)
        else:
            report["runs"].append(merge({}, run))
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        draw(all_runs(options.out), options.out / FIGURE)


def dated(report: dict[str, Any]) -> dict[str, Any]:
    """A recorded report in which each result has its own date."""
    for run in report["runs"]:
        for engine, result in run["engines"].items():
            run["engines"][engine] = {"date": report["date"]} | result
    return report


def runs(sizes: Sequence[int], widths: Sequence[int], settings: Settings) -> Iterator[dict[str, Any]]:
    """All comparisons, the small ones first."""
    for n in sizes:
        for m in widths:
            yield compare("clustered", *clustered(n, m, QUERIES), settings)
        if n == min(SIZES) and (questions := real_questions(QUERIES)) is not None:
            yield compare("real questions", *questions, settings)


def files(folder: Path) -> list[Path]:
    """The files of recorded results."""
    return [path for name in ("retrieval", "retrieval_million") if (path := folder / f"{name}.json").exists()]


def all_runs(folder: Path) -> list[dict[str, Any]]:
    """Every recorded comparison; each result has its date."""
    return [run for path in files(folder) for run in dated(json.loads(path.read_text("utf-8")))["runs"]]


def page_tables(folder: Path) -> str:
    """Tables of the recorded rates, recalls and build times, and the number of questions from which ScaNN is faster."""
    recorded = [json.loads(path.read_text("utf-8")) for path in files(folder)]
    runs = all_runs(folder)
    titles = [f"{run['n']:,} x {run['m']}" + ", questions" * (run["vectors"] != "clustered") for run in runs]

    def rows(cell: Callable[[dict[str, Any]], str]) -> list[list[str]]:
        return [[label, *(cell(run["engines"][engine]) for run in runs)] for engine, label in NAMES.items()]

    newest = max(result["date"] for run in runs for result in run["engines"].values())
    older = sorted({result["date"] for run in runs for result in run["engines"].values()} - {newest})

    def rate(result: dict[str, Any]) -> str:
        mark = "" if result["date"] == newest else "*"
        return result.get("left_out") or f"{result['queries_per_second']:,.0f} ({result['recall']:.3f}){mark}"

    def ratio(engine: str) -> list[str]:
        pairs = [(rate_of(run["engines"]["exact"]), rate_of(run["engines"][engine])) for run in runs]
        return [f"exact / {NAMES[engine]}", *(f"{ours / theirs:.2f}" if theirs else "" for ours, theirs in pairs)]

    def building(result: dict[str, Any]) -> str:
        if "left_out" in result:
            return ""
        return f"{result['build_seconds']:,.1f} s, {result['memory_mib_beyond_vectors']:,.0f}"

    where = f"`python -m benchmarks.retrieval`, and with `--million`: {recorded[0]['machine']}, {newest}"
    where += f"; * {', '.join(older)}." if older else "."
    rates = [*rows(rate), ratio("sklearn"), ratio("faiss_flat")]
    table = markdown_table(["queries per second (recall at 5)", *titles], rates, align_right=True)
    head = "build time, and MiB in addition to the vectors"
    built = markdown_table([head, *titles], rows(building), align_right=True)
    numbers = [break_even_questions(run["engines"]) for run in runs]
    break_even = "; ".join(f"{title}: {number}" for title, number in zip(titles, numbers, strict=True))
    note = f"Number of questions from which ScaNN with its build time is faster than exact search: {break_even}."
    opened = f"A bank of 1,000,000 x 384 opens in {recorded[1]['runs'][0]['open_seconds']:g} s."
    return "\n\n".join([where, table, built, f"{note} {opened}\n"])


def break_even_questions(engines: Mapping[str, Mapping[str, Any]]) -> str:
    """The number of questions from which ScaNN, including its build time, is faster than exact search."""
    exact, scann = engines["exact"], engines["scann"]
    if "left_out" in exact or "left_out" in scann:
        return "unknown"
    saved = 1 / exact["queries_per_second"] - 1 / scann["queries_per_second"]  # seconds per question
    extra_build = scann["build_seconds"] - exact["build_seconds"]
    return f"{extra_build / saved:,.0f}" if saved > 0 else "never"


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the rate as a function of bank size for the clustered vectors, with a panel per width."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from r2t2_jax.reporting.style import MARKERS, SERIES

    runs = [run for run in runs if run["vectors"] == "clustered"]
    widths = sorted({run["m"] for run in runs})
    with rc_context(fname=STYLE):
        figure = Figure(figsize=(3.6 * len(widths), 3.4), layout="constrained")
        panels = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
        for axes, width in zip(panels, widths, strict=True):
            for (engine, label), color, marker in zip(NAMES.items(), SERIES, MARKERS, strict=False):
                results = [(run["n"], run["engines"][engine]) for run in runs if run["m"] == width]
                points = [(n, each["queries_per_second"], each["recall"]) for n, each in results if "recall" in each]
                sizes, rates = [n for n, *_ in points], [rate for _, rate, _ in points]
                axes.plot(sizes, rates, color=color, marker=marker, label=label)
                for n, rate, recall in points:
                    if recall < FULL_RECALL:
                        axes.annotate(
                            f"recall {recall:.3f}", (n, rate), (2, -15), textcoords="offset points", ha="right"
                        )
            axes.set(xscale="log", yscale="log", title=f"{width} numbers per vector", xlabel="references")
        panels[0].set(ylabel="queries per second")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()
