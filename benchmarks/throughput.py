"""The overhead of `r2t2 eval` over the model: `python -m benchmarks.throughput`.

The same questions of the pocket model run with the same strategies and the same compiled programs in two ways: in a
bare loop that prepares, encodes, retrieves, re-routes and generates, and discards the answers; and as `r2t2 eval`,
which also scores the answers, converts them to rows and saves them. Both compute one batch at a time and alternate,
after everything is compiled. CPU time is recorded in addition to wall time, because it depends less on other
processes. The programs that a process compiles and those that the next process finds in the cache are counted
separately.

The second part compares `r2t2 eval --ray local --workers 1` with `r2t2 eval` on the same questions, as commands whose
programs are compiled and which run at the same time. CPU time is that of all processes from start to end: driver,
worker and Ray's own (`process_tree.py`). Weak scaling is one worker against two workers on twice as many questions.
`--part ray` repeats only this part. The results go to `benchmarks/results/throughput.json`.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.process_tree import TreeTimes, run_and_measure
from r2t2_jax.datasets import load_dataset
from r2t2_jax.evaluation.benchmark import PLAN_BATCH, record_references, run_benchmarks
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.devices import device_groups
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.job import Job
from r2t2_jax.evaluation.question_sets import read_benchmarks
from r2t2_jax.methods import find_preset, method_of
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import load
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.batching import run_batch
from r2t2_jax.runtime.compilation_cache import FOLDER, CompileCounter, enable_compilation_cache

RESULTS = Path(__file__).parent / "results" / "throughput.json"
BENCHMARK, STRATEGIES = "pocket", ("base", "ngd")
ONCE = "--compile-only"
MODEL, R2T2 = "pocket:narrow", (sys.executable, "-m", "r2t2_jax.cli.main")


def main(
    samples: int = 16 * PLAN_BATCH,
    references: int = 600,
    repeats: int = 5,
    machine: str = "2 CPU cores",
    compile_only: bool = False,
    part: Literal["all", "loop", "ray"] = "all",
    ray_samples: int = 1000,
    ray_repeats: int = 3,
    scaling_samples: int = 250,
) -> None:
    """Measure, or with `compile_only` print the programs that this process compiles for one batch."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if part != "ray":
        results |= compare_with_loop(samples, references, repeats, machine, compile_only)
    if compile_only:
        return
    if part != "loop":
        results["ray"] = compare_with_workers(ray_samples, scaling_samples, references, ray_repeats, machine)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


def compare_with_loop(samples: int, references: int, repeats: int, machine: str, compile_only: bool) -> dict[str, Any]:
    """The overhead over a bare loop; with `compile_only` nothing, after printing the programs."""
    job = open_pocket(PLAN_BATCH if compile_only else samples, references)
    if compile_only:
        print(json.dumps(count_programs(job)))
        return {}
    run_bare_loop(job)  # compiles
    pairs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append((run_bare_loop(job), run_evaluation(job, Path(folder) / "run")))
    (loop, loop_cpu), (whole, whole_cpu) = (np.median(pair, axis=0).tolist() for pair in zip(*pairs, strict=True))
    with tempfile.TemporaryDirectory() as cache:
        first, second = (count_in_subprocess(cache, references) for _ in range(2))
    return {
        "machine": machine,
        "date": datetime.date.today().isoformat(),
        "model": job.port.name,
        "samples": samples,
        "strategies": STRATEGIES,
        "repeats": repeats,
        "samples_per_second": {"bare_loop": round(samples / loop, 1), "eval": round(samples / whole, 1)},
        "overhead_percent": round(100 * (whole / loop - 1), 1),
        "overhead_percent_each": [round(100 * (after / before - 1), 1) for (before, _), (after, _) in pairs],
        "overhead_percent_of_cpu_time": round(100 * (whole_cpu / loop_cpu - 1), 1),
        "first_process": first,
        "next_process": second,
    }


def compare_with_workers(
    samples: int, scaling_samples: int, references: int, repeats: int, machine: str
) -> dict[str, Any]:
    """CPU time with one Ray worker and in one process, and weak scaling to two workers; medians of the repeats."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = ["bank", "build", "--model", MODEL, "--data", BENCHMARK, "--limit", str(references)]
        subprocess.run([*R2T2, *build, "--out", str(folder / "bank")], check=True, capture_output=True)
        evaluate_in(folder, "warm", PLAN_BATCH)  # compiles
        times: dict[str, list[TreeTimes]] = {"in_process": [], "one": [], "half": [], "two": []}
        for i in range(repeats):
            with ThreadPoolExecutor(2) as pool:  # at the same time, so that other processes slow both alike
                in_process = pool.submit(evaluate_in, folder, f"in-process-{i}", samples)
                one = pool.submit(evaluate_in, folder, f"one-{i}", samples, workers=1)
            times["in_process"].append(in_process.result())
            times["one"].append(one.result())
            times["half"].append(evaluate_in(folder, f"half-{i}", scaling_samples, workers=1))
            times["two"].append(evaluate_in(folder, f"two-{i}", 2 * scaling_samples, workers=2))
        runs = [folder / f"{kind}-{i}" for kind in ("in-process", "one") for i in range(repeats)]
        assert len({(run / "summary.json").read_bytes() for run in runs}) == 1  # the same numbers
    runs_of_one, both = times["one"], [*zip(times["in_process"], times["one"], strict=True)]
    return {
        "machine": machine,
        "date": datetime.date.today().isoformat(),
        "load": round(os.getloadavg()[1], 1),
        "samples": samples,
        "repeats": repeats,
        "counted": "user and system time of all processes from start to end: driver, workers, Ray's own",
        "cpu_seconds": {
            "in_process": median(run.total for run in times["in_process"]),
            "one_worker": median(run.total for run in runs_of_one),
            "one_worker_by_role": {
                role: median(run.cpu.get(role, 0.0) for run in runs_of_one) for role in sorted(runs_of_one[0].cpu)
            },
        },
        "overhead_percent_of_cpu_time": median(100 * (after.total / before.total - 1) for before, after in both),
        "overhead_percent_each": [round(100 * (after.total / before.total - 1), 1) for before, after in both],
        "weak_scaling": {
            "one_worker": scaling(times["half"], scaling_samples),
            "two_workers": scaling(times["two"], 2 * scaling_samples),
        },
    }


def scaling(runs: Sequence[TreeTimes], samples: int) -> dict[str, float]:
    """Questions, wall seconds, and CPU seconds of the workers for a thousand questions."""
    return {
        "samples": samples,
        "wall_seconds": median(run.wall for run in runs),
        "worker_cpu_seconds_per_1000": median(1000 * run.cpu.get("worker", 0.0) / samples for run in runs),
    }


def median(values: Iterable[float]) -> float:
    """The median, rounded."""
    return round(float(np.median(list(values))), 1)


def evaluate_in(folder: Path, name: str, samples: int, workers: int = 0) -> TreeTimes:
    """Times of `r2t2 eval` as a command, in one process or on workers of a local cluster."""
    options = ["--bank", str(folder / "bank"), "--data", BENCHMARK, "--limit", str(samples)]
    options += ["--strategy", ",".join(STRATEGIES), "--out", str(folder / name)]
    options += ["--ray", "local", "--workers", str(workers)] if workers else []
    return run_and_measure([*R2T2, "eval", "--model", MODEL, *options], os.environ)


def open_pocket(samples: int, references: int) -> Job:
    """The pocket model on its own test set."""
    port = load(MODEL)
    bank = collect_bank(port, load_dataset(BENCHMARK, "reference", references), get_metric("exact_match"))
    preset = find_preset("pocket", port.presets)
    strategies = {name: method_of(name, preset) for name in STRATEGIES}
    benchmarks = read_benchmarks([BENCHMARK], None, samples, 0, "", "")
    return Job([port], device_groups(""), bank, benchmarks, strategies, preset, 0, PLAN_BATCH, fitted=False)


Seconds = tuple[float, float]  # wall time and CPU time


def since(start: Seconds) -> Seconds:
    """The wall and CPU time since `start`."""
    return time.perf_counter() - start[0], time.process_time() - start[1]


def run_bare_loop(job: Job) -> Seconds:
    """Time of the loop."""
    samples, size = job.benchmarks[BENCHMARK].samples, job.batch
    start = since((0, 0))
    for first in range(0, len(samples), size):
        questions = encode_questions(job.port, samples[first : first + size], size)
        batch = job.evaluator.prepare_batch(questions, np.arange(first, first + size))
        for name in STRATEGIES:
            run_batch(partial(batch.answer, name), 0, size, size)
    return since(start)


def run_evaluation(job: Job, folder: Path) -> Seconds:
    """Time of the same work as a run, including its summary."""
    start = since((0, 0))
    with Run.open(folder, "eval", {}, job.plan, job.depends) as run:
        run_benchmarks(run, job.evaluators(run, discard), 1, discard)
        record_references(run, job.port.name, job.bank)
        run.finish(job.summary(run))
    return since(start)


def discard(line: str) -> None:
    """Discard a log line."""


def count_programs(job: Job) -> dict[str, float]:
    """The numbers of programs that this process compiles and finds in the cache for one batch."""
    enable_compilation_cache()
    with CompileCounter() as counted:
        run_bare_loop(job)
    return {"compiled": counted.programs, "found_on_disk": counted.cached, "seconds": round(counted.seconds, 1)}


def count_in_subprocess(cache: str, references: int) -> dict[str, float]:
    """The same numbers of a separate process with the compilation cache in the folder `cache`."""
    command = [sys.executable, "-m", "benchmarks.throughput", ONCE, "--references", str(references)]
    completed = subprocess.run(command, env={**os.environ, FOLDER: cache}, capture_output=True, text=True, check=True)
    return json.loads(completed.stdout.splitlines()[-1])


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
