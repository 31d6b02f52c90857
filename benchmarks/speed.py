"""Time per sample of exact NGD compared with PyTorch: `python -m benchmarks.speed [--quick]`.

Three implementations run on the pocket model with the same weights, features, neighbors and step size
(`speed_problem.py`): ours, the pattern of the authors' code, and a batched PyTorch version
(`tests/ports/pocket/torch_pocket.py`, with a test that all reach the same routing weights). Ours is also timed as a
function of neighbors, steps, batch size, bank size and number of devices. Every measurement is a separate process
(`speed_worker.py`). Where implementations are compared, their processes take turns, a run each, so that a machine whose
speed changes is equally fast for all. The numbers go to `benchmarks/results/speed.json` and, as tables, to
`docs/speed.md`; `--doc` rewrites the tables from the recorded numbers.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import tyro

from benchmarks.pages import write_results
from benchmarks.speed_problem import make_problem
from benchmarks.speed_worker import summary
from r2t2_jax.errors import missing_extra
from r2t2_jax.reporting.tables import markdown_table
from r2t2_jax.runtime.batching import usable_cores

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
PAGE = ROOT / "docs" / "speed.md"
THREADS = ("one", "all")
AXES = {
    "k": "neighbors k",
    "S": "steps S",
    "B": "samples per batch B",
    "vmap_size": "vmap size",
    "N": "references in the bank, retrieval included",
}
BUSY = 0.3  # cores used by other processes from which a machine counts as busy
BUSY_LOAD = 0.5  # load average from which it does, in earlier records
PAUSE = 0.05  # seconds before a run, after which the threads of the other process sleep
IDLE_SECONDS = 2.0  # for which this process waits while it measures them
PYTORCH = {"one_by_one": "PyTorch, one by one", "batched": "PyTorch, batched", "compiled": "PyTorch, torch.compile"}


@dataclass(frozen=True)
class SpeedSettings:
    """The measured settings."""

    repeats: int = 7
    batches: tuple[int, ...] = (1, 8, 32)
    k: int = 5
    steps: int = 10
    middle: int = 8  # samples per batch while another axis varies
    axes: Mapping[str, Sequence[int]] = field(
        default_factory=lambda: {
            "k": (1, 2, 5, 10, 20),
            "S": (1, 5, 10, 20),
            "B": (1, 2, 4, 8, 16, 32),
            "vmap_size": (1, 2, 4, 8),
            "N": (1_000, 10_000, 100_000),
        }
    )
    devices: tuple[int, ...] = (1, 2, 4)
    shared: int = 32  # samples per batch that devices share


QUICK = SpeedSettings(
    3,
    (1, 8),
    axes={"k": (1, 5), "S": (1, 10), "B": (1, 8), "vmap_size": (1, 8), "N": (1_000,)},
    devices=(1, 2),
    shared=8,
)


def measure(settings: SpeedSettings) -> dict[str, Any]:
    """Run every measurement, one process after another."""
    common = {"k": settings.k, "steps": settings.steps, "repeats": settings.repeats}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        make_problem(max(settings.batches), max(settings.k, *settings.axes["k"]), references=200).save(path)
        comparison = {threads: compare(path, threads, settings.batches, **common) for threads in THREADS}
        scaling = in_subprocess("scaling", path, "all", axes=settings.axes, batch=settings.middle, **common)
        profile = in_subprocess("profile", path, "one", batch=settings.middle, **common)
        shared = {
            str(n): in_subprocess("devices", path, "all", devices=n, batch=settings.shared, **common)
            for n in settings.devices
        }
    return {"comparison": comparison, "scaling": scaling, "devices": shared, "profile": profile}


def compare(path: Path, threads: str, batches: Sequence[int], repeats: int, **settings: int) -> dict[str, Any]:
    """Times of all versions by name and batch size; their runs alternate. Also what `measure_ours` returns."""
    timings: dict[str, Any] = {name: {} for name in (*PYTORCH, "ours")}
    with ExitStack() as stack:
        torch, ours = (
            stack.enter_context(worker(name, path, threads, repeats=repeats, stdin=subprocess.PIPE, **settings))
            for name in ("torch", "ours")
        )
        processes = dict.fromkeys(PYTORCH, torch) | {"ours": ours}
        for batch in batches:
            rounds = [
                {name: run_in(process, name, batch) for name, process in processes.items()} for _ in range(1 + repeats)
            ]
            for name, by_batch in timings.items():
                first, *seconds = (each[name] for each in rounds)
                by_batch[str(batch)] = summary(first, seconds, batch)
        torch.communicate()  # wait for PyTorch's process to exit: `product_rate` runs without other work
        counted = json.loads(ours.communicate()[0].splitlines()[-1])
    for batch, flops in counted["flops_per_sample"].items():
        timings["ours"][batch]["flops_per_sample"] = flops
    return timings | {"product": counted["product"]}


def run_in(process: subprocess.Popen[str], name: str, batch: int) -> float:
    """The seconds of one run in a process that reads requests.

    Raises:
        CalledProcessError: the process failed.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    time.sleep(PAUSE)
    process.stdin.write(f"{name} {batch}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise subprocess.CalledProcessError(process.wait(), process.args)
    return float(line)


def in_subprocess(name: str, path: Path, threads: str, devices: int = 1, **settings: Any) -> dict[str, Any]:
    """The result of one measurement in a process of its own.

    Raises:
        CalledProcessError: the process failed.
    """
    with worker(name, path, threads, devices, **settings) as process:
        output, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def worker(
    name: str, path: Path, threads: str, devices: int = 1, stdin: int | None = None, **settings: Any
) -> subprocess.Popen[str]:
    """A process of `speed_worker`."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # compile time is measured
    if threads == "one":
        environment |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": f"{flags} --xla_cpu_multi_thread_eigen=false"}
    command = [sys.executable, "-m", "benchmarks.speed_worker", name, str(path), threads, json.dumps(settings)]
    print(f"{name}, {threads} threads, devices: {devices}", file=sys.stderr, flush=True)
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, text=True)


Timing = Mapping[str, float]


def milliseconds(timing: Timing) -> str:
    """The median with the quartiles."""
    values = [1e3 * timing[name] for name in ("low", "seconds_per_sample", "high")]
    low, median, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)
    return f"{median} ({low} to {high})"


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Our and PyTorch's times for every batch size, and our FLOP/s next to those of one large product."""
    first = next(iter(comparison.values()))
    names = [name for name in PYTORCH if name in first]  # earlier records lack some columns
    counted = "product" in first
    rows = []
    for threads, timings in comparison.items():
        for batch, ours in timings["ours"].items():
            others = [timings[name][batch] for name in names]
            ratios = [f"{other['seconds_per_sample'] / ours['seconds_per_sample']:.1f}" for other in others]
            compiled = f"{ours['first_call_extra_seconds']:.1f}"
            row = [threads, batch, *map(milliseconds, (*others, ours)), *ratios, compiled]
            if counted:
                rate, limit = ours["flops_per_sample"] / ours["seconds_per_sample"], timings["product"]
                row += [f"{rate / 1e9:.0f}", f"{100 * rate / limit:.0f} %"]
            rows.append(row)
    head = ["threads", "B", *(f"{PYTORCH[name]}, ms per sample" for name in names), "ours, ms per sample"]
    head += [*(f"{PYTORCH[name]} / ours" for name in names), "ours, compile time, s"]
    head += ["ours, GFLOP/s", "share of one large product"] if counted else []
    return markdown_table(head, rows, align_right=True)


def scaling_tables(scaling: Mapping[str, Any]) -> str:
    """A table for every axis."""
    return "\n\n".join(
        markdown_table(
            [AXES[axis], "ms per sample"],
            [[f"{int(value):,}", milliseconds(timing)] for value, timing in timings.items()],
            align_right=True,
        )
        for axis, timings in scaling.items()
    )


def devices_table(devices: Mapping[str, Timing], cores: int) -> str:
    """The speed-up of several devices over one, also as a share of the cores that they can use."""
    single = devices["1"]["seconds_per_sample"]
    rows = []
    for n, timing in devices.items():
        speed_up = single / timing["seconds_per_sample"]
        rows.append([n, milliseconds(timing), f"{speed_up:.2f}", f"{100 * speed_up / min(int(n), cores):.0f} %"])
    head = ["devices", "ms per sample", "speed-up over one device", "per usable core"]
    return markdown_table(head, rows, align_right=True)


def profile_table(profile: Mapping[str, float]) -> str:
    """The time of one step by kind of operation, the longest first."""
    kinds = sorted((kind for kind in profile if f"{kind}, count" in profile), key=lambda kind: -profile[kind])
    total = sum(profile[kind] for kind in kinds)
    rows = [
        [kind, f"{profile[f'{kind}, count']:.0f}", f"{profile[kind]:,.0f}", f"{100 * profile[kind] / total:.0f} %"]
        for kind in kinds
    ]
    return markdown_table(["kind of operation", "per step", "microseconds", "share"], rows, align_right=True)


def busy_note(recorded: Mapping[str, Any]) -> str:
    """A sentence if other processes used the machine before the start; earlier records have the load average."""
    if "busy_cores_before" not in recorded:
        load = recorded["load_before"]
        busy, measured = load > BUSY_LOAD, f"The machine was busy (load average {load} before the start)"
    else:
        cores = recorded["busy_cores_before"]
        busy, measured = cores > BUSY, f"Other processes used {cores:.1f} cores before the start"
    return f" **{measured}: do not quote these times.**" if busy else ""


def busy_cores() -> float:
    """The number of cores that other processes use, measured while this one sleeps.

    A load average would contain the decaying load of what ran before.
    """
    return psutil.cpu_percent(IDLE_SECONDS) / 100 * (psutil.cpu_count() or 1)


def page_tables(recorded: Mapping[str, Any]) -> str:
    """All tables of the page with command, settings, machine and date."""
    settings = recorded["settings"]
    where = (
        f"`{recorded['command']}`, {recorded['machine']}, {recorded['date']}; jax {recorded['jax']}, "
        f"torch {recorded['torch']}. k = {settings['k']}, S = {settings['steps']}. Medians of {settings['repeats']} "
        "runs, quartiles in brackets."
    )
    where += busy_note(recorded)
    middle, shared = settings["middle"], settings["shared"]
    profiled = []
    if "profile" in recorded:
        together = recorded["profile"].get("samples together", 1)
        title = f"One step of one sample in the profile of ours, one thread, B = {middle}, {together} at a time:"
        profiled = [title, profile_table(recorded["profile"])]
    return "\n\n".join(
        [
            where,
            comparison_table(recorded["comparison"]),
            *profiled,
            f"Ours as a function of one setting, all threads, B = {middle} unless B varies:",
            scaling_tables(recorded["scaling"]),
            f"Ours on forced CPU devices, B = {shared}:",
            devices_table(recorded["devices"], recorded["cores"]) + "\n",
        ]
    )


def main(quick: bool = False, doc: bool = False, machine: str = "2 CPU cores") -> None:
    """Measure and write the tables; `quick` measures less and writes nothing, `doc` writes the recorded numbers."""
    if doc:
        write_results(PAGE, page_tables(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    if importlib.util.find_spec("torch") is None:
        raise SystemExit(f"benchmarks.speed: {missing_extra('the comparison', 'PyTorch', 'convert')}")
    settings, start = QUICK if quick else SpeedSettings(), time.perf_counter()
    recorded = {
        "command": "python -m benchmarks.speed" + " --quick" * quick,
        "machine": machine,
        "cores": usable_cores(),
        "busy_cores_before": round(busy_cores(), 2),
        "date": datetime.date.today().isoformat(),
        "jax": version("jax"),
        "torch": version("torch"),
        "settings": {name: getattr(settings, name) for name in ("repeats", "k", "steps", "middle", "shared")},
        **measure(settings),
    }
    if not quick:
        RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
        write_results(PAGE, page_tables(recorded))
    print(page_tables(recorded))
    print(f"{time.perf_counter() - start:.0f} seconds")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
