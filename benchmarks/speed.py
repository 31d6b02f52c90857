"""Seconds a case of exact NGD, side by side with PyTorch: `python -m benchmarks.speed [--quick]`.

The pocket model with the same weights, features, neighbours and step size (`speed_problem.py`), three times: ours, the
pattern of the authors' code, and a batched PyTorch version (`tests/ports/pocket/torch_pocket.py`; a test beside it
holds that all arrive at the same routing weights). Then ours alone: against neighbours, steps, batch and bank size, and
over several devices. Every measurement is a process of its own (`speed_worker.py`). Numbers go to
`benchmarks/results/speed.json` and, as tables, to `docs/speed.md`; `--doc` writes the page anew from the numbers.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tyro

from benchmarks.pages import write_results
from benchmarks.speed_problem import make_problem
from r2t2_jax.reporting.tables import markdown_table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
PAGE = ROOT / "docs" / "speed.md"
THREADS = ("one", "all")
AXES = {
    "k": "neighbours k",
    "S": "steps S",
    "B": "cases a batch B",
    "vmap_size": "cases abreast",
    "N": "references in the bank, retrieval included",
}
BUSY = 0.5  # load average from which on a machine has other things to do
RIVALS = {"one_by_one": "PyTorch, one by one", "together": "PyTorch, batched"}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    repeats: int = 7
    batches: tuple[int, ...] = (1, 8, 32)
    k: int = 5
    steps: int = 10
    middle: int = 8  # cases a batch where another axis is looked at
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
    shared: int = 32  # cases a batch that devices share


QUICK = Plan(
    3,
    (1, 8),
    axes={"k": (1, 5), "S": (1, 10), "B": (1, 8), "vmap_size": (1, 8), "N": (1_000,)},
    devices=(1, 2),
    shared=8,
)


def measure(plan: Plan) -> dict[str, Any]:
    """Every measurement, one process after another."""
    common = {"k": plan.k, "steps": plan.steps, "repeats": plan.repeats}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        make_problem(max(plan.batches), max(plan.k, *plan.axes["k"]), references=200).save(path)
        beside = {
            threads: {
                **elsewhere("torch", path, threads, batches=plan.batches, **common),
                **elsewhere("ours", path, threads, batches=plan.batches, **common),
            }
            for threads in THREADS
        }
        scaling = elsewhere("scaling", path, "all", axes=plan.axes, batch=plan.middle, **common)
        shared = {
            str(n): elsewhere("devices", path, "all", devices=n, batch=plan.shared, **common) for n in plan.devices
        }
    return {"beside": beside, "scaling": scaling, "devices": shared}


def elsewhere(name: str, path: Path, threads: str, devices: int = 1, **settings: Any) -> dict[str, Any]:
    """One measurement in a process of its own."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # what compiling takes is measured
    if threads == "one":
        environment |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": f"{flags} --xla_cpu_multi_thread_eigen=false"}
    command = [sys.executable, "-m", "benchmarks.speed_worker", name, str(path), threads, json.dumps(settings)]
    print(f"{name}, {threads} threads, devices: {devices}", file=sys.stderr, flush=True)
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


Timed = Mapping[str, float]


def milliseconds(found: Timed) -> str:
    """The median and the quartiles."""
    values = [1e3 * found[name] for name in ("low", "seconds_a_case", "high")]
    low, median, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)
    return f"{median} ({low} to {high})"


def beside_table(beside: Mapping[str, Any]) -> str:
    """Ours and PyTorch's at every batch size."""
    rows = []
    for threads, found in beside.items():
        for batch, own in found["ours"].items():
            others = [found[name][batch] for name in RIVALS]
            ratios = [f"{one['seconds_a_case'] / own['seconds_a_case']:.1f}" for one in others]
            compiled = f"{own['first_call_extra_seconds']:.1f}"
            rows.append([threads, batch, *(milliseconds(one) for one in (*others, own)), *ratios, compiled])
    head = ["threads", "B", *(f"{label}, ms a case" for label in RIVALS.values()), "ours, ms a case"]
    head += [*(f"{label} / ours" for label in RIVALS.values()), "ours compiles, s"]
    return markdown_table(head, rows, align_right=True)


def scaling_tables(scaling: Mapping[str, Any]) -> str:
    """A small table for every axis."""
    return "\n\n".join(
        markdown_table(
            [AXES[axis], "ms a case"],
            [[f"{int(at):,}", milliseconds(one)] for at, one in found.items()],
            align_right=True,
        )
        for axis, found in scaling.items()
    )


def devices_table(devices: Mapping[str, Timed], cores: int) -> str:
    """How much faster several devices are than one, and which share of the cores they could use that is."""
    alone = devices["1"]["seconds_a_case"]
    rows = []
    for n, found in devices.items():
        faster = alone / found["seconds_a_case"]
        rows.append([n, milliseconds(found), f"{faster:.2f}", f"{100 * faster / min(int(n), cores):.0f} %"])
    head = ["devices", "ms a case", "times as fast as one", "of what so many cores could be"]
    return markdown_table(head, rows, align_right=True)


def page_tables(recorded: Mapping[str, Any]) -> str:
    """All tables of the page with their command, settings, machine and date."""
    settings = recorded["settings"]
    where = (
        f"`{recorded['command']}`, {recorded['machine']}, {recorded['date']}; jax {recorded['jax']}, "
        f"torch {recorded['torch']}. k = {settings['k']}, S = {settings['steps']}. Medians of {settings['repeats']} "
        "runs, quartiles in brackets."
    )
    load = recorded["load_before"]
    if load > BUSY:
        where += f" **The machine was busy (load average {load} before the start): these times are not to be quoted.**"
    middle, shared = settings["middle"], settings["shared"]
    return "\n\n".join(
        [
            where,
            beside_table(recorded["beside"]),
            f"Ours against one number at a time, all threads, B = {middle} where it is not the number:",
            scaling_tables(recorded["scaling"]),
            f"Ours over forced CPU devices, B = {shared}:",
            devices_table(recorded["devices"], recorded["cores"]) + "\n",
        ]
    )


def main(quick: bool = False, doc: bool = False, machine: str = "2 CPU cores") -> None:
    """Measure and write, with `quick` less of it; with `doc` only write the page from what was recorded."""
    if doc:
        write_results(PAGE, page_tables(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    plan, start = QUICK if quick else Plan(), time.perf_counter()
    recorded = {
        "command": "python -m benchmarks.speed" + " --quick" * quick,
        "machine": machine,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "date": datetime.date.today().isoformat(),
        "jax": version("jax"),
        "torch": version("torch"),
        "settings": {name: getattr(plan, name) for name in ("repeats", "k", "steps", "middle", "shared")},
        **measure(plan),
    }
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    write_results(PAGE, page_tables(recorded))
    print(page_tables(recorded))
    print(f"{time.perf_counter() - start:.0f} seconds")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
