"""What `r2t2 eval` costs beside the model: `python -m benchmarks.throughput`.

The same questions of the pocket model, the same strategies, the same compiled programs: once in a bare loop that
prepares, encodes, finds neighbours, re-routes and generates, and throws the answers away; once as `r2t2 eval` does it,
which also scores them, tells them as rows and saves them. One batch is computed at a time in both, everything is
compiled before the clock starts, and the two take turns. CPU time is given beside the clock's, since on a busy machine
it is what can be trusted. What a process compiles, and what the next one finds on disk, is told apart. Results go to
`benchmarks/results/throughput.json`.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import tyro

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


def main(
    samples: int = 16 * PLAN_BATCH,
    references: int = 600,
    repeats: int = 5,
    machine: str = "2 CPU cores",
    compile_only: bool = False,
) -> None:
    """Measure, or with `compile_only` say what this process compiled for one batch."""
    job = open_pocket(PLAN_BATCH if compile_only else samples, references)
    if compile_only:
        print(json.dumps(compiled(job)))
        return
    bare(job)  # compiles
    pairs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append((bare(job), evaluated(job, Path(folder) / "run")))
    (loop, loop_cpu), (whole, whole_cpu) = (np.median(taken, axis=0).tolist() for taken in zip(*pairs, strict=True))
    with tempfile.TemporaryDirectory() as cache:
        first, second = (compiled_elsewhere(cache, references) for _ in range(2))
    found = {
        "machine": machine,
        "date": datetime.date.today().isoformat(),
        "model": job.port.name,
        "samples": samples,
        "strategies": STRATEGIES,
        "repeats": repeats,
        "samples_a_second": {"bare_loop": round(samples / loop, 1), "eval": round(samples / whole, 1)},
        "overhead_percent": round(100 * (whole / loop - 1), 1),
        "overhead_percent_each": [round(100 * (after / before - 1), 1) for (before, _), (after, _) in pairs],
        "overhead_percent_of_cpu_time": round(100 * (whole_cpu / loop_cpu - 1), 1),
        "first_process": first,
        "next_process": second,
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def open_pocket(samples: int, references: int) -> Job:
    """The pocket model on its own test set."""
    port = load("pocket:narrow")
    bank = collect_bank(port, load_dataset(BENCHMARK, "reference", references), get_metric("exact_match"))
    preset = find_preset("pocket", port.presets)
    strategies = {name: method_of(name, preset) for name in STRATEGIES}
    benchmarks = read_benchmarks([BENCHMARK], None, samples, 0, "", "")
    return Job([port], device_groups("", 1), bank, benchmarks, strategies, preset, 0, PLAN_BATCH, fitted=False)


Taken = tuple[float, float]  # seconds on the clock, and of all CPU cores


def since(start: Taken) -> Taken:
    """What was taken since `start`; all there is, with zeros."""
    return time.perf_counter() - start[0], time.process_time() - start[1]


def bare(job: Job) -> Taken:
    """The loop, with nothing around it."""
    samples, size = job.benchmarks[BENCHMARK].samples, job.batch
    start = since((0, 0))
    for first in range(0, len(samples), size):
        questions = encode_questions(job.port, samples[first : first + size], size)
        batch = job.evaluator.prepare_batch(questions, np.arange(first, first + size))
        for name in STRATEGIES:
            run_batch(partial(batch.answer, name), 0, size, size)
    return since(start)


def evaluated(job: Job, folder: Path) -> Taken:
    """The same as a run, summary included."""
    start = since((0, 0))
    with Run.open(folder, "eval", {}, job.plan, job.depends) as run:
        run_benchmarks(run, job.evaluators(run, unheard), 1, unheard)
        record_references(run, job.port.name, job.bank)
        run.finish(job.summary(run))
    return since(start)


def unheard(line: str) -> None:
    """Where a line beside the progress bar goes."""


def compiled(job: Job) -> dict[str, float]:
    """What this process compiles, or finds on disk, for one batch."""
    enable_compilation_cache()
    with CompileCounter() as counted:
        bare(job)
    return {"compiled": counted.programs, "found_on_disk": counted.cached, "seconds": round(counted.seconds, 1)}


def compiled_elsewhere(cache: str, references: int) -> dict[str, float]:
    """The same of a process of its own, with its programs in the folder `cache`."""
    command = [sys.executable, "-m", "benchmarks.throughput", ONCE, "--references", str(references)]
    done = subprocess.run(command, env={**os.environ, FOLDER: cache}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
