"""The overhead of `r2t2 eval` over the model: `python -m benchmarks.throughput`.

The same questions of the pocket model run with the same strategies and the same compiled programs in two ways: in a
bare loop that prepares, encodes, retrieves, re-routes and generates, and discards the answers; and as `r2t2 eval`,
which also scores the answers, converts them to rows and saves them. Both compute one batch at a time and alternate,
after everything is compiled. CPU time is recorded in addition to wall time, because it depends less on other
processes. The programs that a process compiles and those that the next process finds in the cache are counted
separately.

The second part compares `r2t2 eval --ray local --workers 1` with `r2t2 eval` on the same questions, as commands whose
programs are compiled and which run at the same time. CPU time is that of all processes from start to end: driver,
worker and Ray's own (`process_tree.py`). The same with more questions gives the overhead of a run and that of a
question. Weak scaling is one worker against two workers on twice as many questions. `--part ray` repeats only this
part. The results go to `benchmarks/results/throughput.json`.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
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
AIM = 0.05  # of the CPU time in one process: the overhead of workers that we aim at
MODEL, R2T2 = "pocket:narrow", (sys.executable, "-m", "r2t2_jax.cli.main")


def main(
    samples: int = 16 * PLAN_BATCH,
    references: int = 600,
    repeats: int = 5,
    machine: str = "2 CPU cores",
    compile_only: bool = False,
    part: Literal["all", "loop", "ray"] = "all",
    ray_samples: int = 1000,
    ray_more_samples: int = 3000,
    ray_repeats: int = 3,
    ray_more_repeats: int = 1,
    scaling_samples: int = 250,
) -> None:
    """Measure, or with `compile_only` print the programs that this process compiles for one batch."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if part != "ray":
        results |= compare_with_loop(samples, references, repeats, machine, compile_only)
    if compile_only:
        return
    if part != "loop":
        sizes = {ray_samples: ray_repeats, ray_more_samples: ray_more_repeats}
        results["ray"] = compare_with_workers(sizes, scaling_samples, references, machine)
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
    sizes: Mapping[int, int], scaling_samples: int, references: int, machine: str
) -> dict[str, Any]:
    """CPU time with one Ray worker and in one process, and weak scaling to two workers; medians of the repeats.

    Args:
        sizes: two numbers of questions, the smaller first, and the repeats of each.
        scaling_samples: questions of one worker in weak scaling.
        references: size of the bank.
        machine: name of the machine.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = ["bank", "build", "--model", MODEL, "--data", BENCHMARK, "--limit", str(references)]
        subprocess.run([*R2T2, *build, "--out", str(folder / "bank")], check=True, capture_output=True)
        evaluate_in(folder, "warm", PLAN_BATCH)  # compiles
        load = os.getloadavg()[1]
        pairs = {n: [run_pair(folder, n, i) for i in range(repeats)] for n, repeats in sizes.items()}
        repeats = range(next(iter(sizes.values())))
        one = [evaluate_in(folder, f"half-{i}", scaling_samples, workers=1) for i in repeats]
        two = [evaluate_in(folder, f"two-{i}", 2 * scaling_samples, workers=2) for i in repeats]
    compared = {n: compare_pairs(each) for n, each in pairs.items()}
    return {
        "machine": machine,
        "date": datetime.date.today().isoformat(),
        "load": round(load, 1),
        "counted": "user and system time of all processes from start to end: driver, workers, Ray's own",
        "questions": compared,
        **separate_overhead({n: each["cpu_seconds"] for n, each in compared.items()}),
        "weak_scaling": {
            "one_worker": scaling(one, scaling_samples),
            "two_workers": scaling(two, 2 * scaling_samples),
        },
    }


Pair = tuple[TreeTimes, TreeTimes]  # in one process, and with one worker


def run_pair(folder: Path, samples: int, number: int) -> Pair:
    """Both commands at the same time, so that other processes slow both alike; they must find the same numbers."""
    names = f"in-process-{samples}-{number}", f"one-{samples}-{number}"
    with ThreadPoolExecutor(2) as pool:
        in_process, one = (
            pool.submit(evaluate_in, folder, name, samples, workers)
            for name, workers in zip(names, (0, 1), strict=True)
        )
    assert len({(folder / name / "summary.json").read_bytes() for name in names}) == 1
    return in_process.result(), one.result()


def compare_pairs(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Medians of the CPU seconds, by role, and the overhead of each pair."""
    in_process, one = zip(*pairs, strict=True)
    percent = [100 * (after.total / before.total - 1) for before, after in pairs]
    return {
        "repeats": len(pairs),
        "wall_seconds": {
            "in_process": median(run.wall for run in in_process),
            "one_worker": median(run.wall for run in one),
        },
        "cpu_seconds": {
            "in_process": median(run.total for run in in_process),
            "one_worker": median(run.total for run in one),
        },
        "one_worker_by_role": {role: median(run.cpu.get(role, 0.0) for run in one) for role in sorted(one[0].cpu)},
        "overhead_percent_of_cpu_time": median(percent),
        "overhead_percent_each": [round(each, 1) for each in percent],
    }


def separate_overhead(seconds: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """The overhead of a run and of a question, from CPU seconds by number of questions, of which there are two.

    Returns:
        Seconds for a run, percent for each question, and the questions from which the overhead is below `AIM`; `None`
        if there is no such number.
    """
    (n, first), (more, second) = seconds.items()
    rates = {kind: (second[kind] - first[kind]) / (more - n) for kind in first}
    starts = {kind: first[kind] - n * rates[kind] for kind in first}
    saved = (1 + AIM) * rates["in_process"] - rates["one_worker"]  # seconds per question
    missing = starts["one_worker"] - (1 + AIM) * starts["in_process"]
    return {
        "overhead_seconds_of_a_run": round(starts["one_worker"] - starts["in_process"], 1),
        "overhead_percent_of_a_question": round(100 * (rates["one_worker"] / rates["in_process"] - 1), 1),
        "questions_from_which_the_overhead_is_below_5_percent": math.ceil(max(0.0, missing) / saved)
        if saved > 0
        else None,
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
