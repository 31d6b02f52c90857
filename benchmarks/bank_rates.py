"""Rate and peak memory of `r2t2 bank build` and `r2t2 bank atlas`: `python -m benchmarks.bank_rates`.

Each command is a process of its own, once with few references of `pocket:narrow` and once with many, after one that
fills the compilation cache of a version that has one. The difference of their times is the time of the further
references, without start and compilation. The peak memory is the largest
resident size of the process with many, as the operating system reports it. Processor seconds depend less on other work
on the machine than seconds. Another checkout is measured in the same run, in turns with this one. The medians are
written to `benchmarks/results/bank_rates.json` and into docs/bank.md.

    python -m benchmarks.bank_rates
    python -m benchmarks.bank_rates --earlier ../earlier  # another checkout
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import tyro

from benchmarks.pages import write_results
from r2t2_jax.reporting.tables import markdown_table

ROOT = Path(__file__).parent.parent
RESULTS, PAGE, MARK = ROOT / "benchmarks" / "results" / "bank_rates.json", ROOT / "docs" / "bank.md", "rates"
COMMANDS = ("bank build", "bank atlas")
COLUMNS = (
    ("whole_references_per_second", "references per s, whole command"),
    ("references_per_second", "further references per s"),
    ("references_per_processor_second", "further references per processor s"),
    ("memory_mib", "peak memory, MiB"),
)
EARLIER = "the first version"


class Usage(NamedTuple):
    """Seconds and processor seconds of a process, and its peak memory in MiB."""

    seconds: float
    processor: float
    memory: float


def run(command: tuple[str, ...], package: Path, cache: Path) -> Usage:
    """Run `r2t2` of a checkout with these arguments.

    Args:
        command: the arguments.
        package: folder that holds `r2t2_jax` and its ports.
        cache: folder of compiled programs.

    Raises:
        CalledProcessError: it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(package), "XDG_CACHE_HOME": str(cache)}
    started = time.perf_counter()
    process = subprocess.Popen(  # Python looks for modules in the working directory before PYTHONPATH
        (sys.executable, "-m", "r2t2_jax.cli.main", *command), env=environment, cwd=package, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.perf_counter() - started
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def run_both(limit: int, package: Path, folder: Path) -> dict[str, Usage]:
    """What both commands take with a number of references, by command; `folder` keeps the compiled programs."""
    with tempfile.TemporaryDirectory(dir=folder) as bank:
        model = ("--model", "pocket:narrow")
        build = ("bank", "build", *model, "--data", "pocket", "--limit", str(limit), "--out", f"{bank}/bank")
        atlas = ("bank", "atlas", f"{bank}/bank", *model)
        return {"bank build": run(build, package, folder), "bank atlas": run(atlas, package, folder)}


def measure(few: int, many: int, repeats: int, versions: Mapping[str, Path]) -> dict[str, dict[str, dict[str, float]]]:
    """Median rates and peak memory by version and command; arguments as of `main`."""
    measured: dict[str, dict[str, list[dict[str, float]]]] = {name: {c: [] for c in COMMANDS} for name in versions}
    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root) / str(i) for i, name in enumerate(versions)}
        for name, package in versions.items():
            folders[name].mkdir()
            run_both(few, package, folders[name])  # fills the cache of programs
        for _ in range(repeats):
            for name, package in versions.items():
                least, most = (run_both(limit, package, folders[name]) for limit in (few, many))
                for command in COMMANDS:
                    measured[name][command].append(rates(least[command], most[command], few, many))
                print(name, {command: each[-1] for command, each in measured[name].items()}, file=sys.stderr)
    return {
        name: {
            command: {key: round(median(each[key] for each in runs), 1) for key in runs[0]}
            for command, runs in of.items()
        }
        for name, of in measured.items()
    }


def rates(least: Usage, most: Usage, few: int, many: int) -> dict[str, float]:
    """References per second of the process with many; per second and processor second of the further references; and
    the peak memory with many in MiB.
    """
    return {
        "whole_references_per_second": round(many / most.seconds, 1),
        "references_per_second": round((many - few) / (most.seconds - least.seconds), 1),
        "references_per_processor_second": round((many - few) / (most.processor - least.processor), 1),
        "memory_mib": round(most.memory),
    }


def page_table(recorded: dict[str, Any]) -> str:
    """The recorded measurements as a Markdown table, and their origin."""
    rows = [
        [f"`{command}`", version, *(f"{numbers[command][key]:,.0f}" for key, _ in COLUMNS)]
        for command in COMMANDS
        for version, numbers in recorded["versions"].items()
    ]
    header = ["command", "version", *(title for _, title in COLUMNS)]
    command = "`python -m benchmarks.bank_rates --few {few} --many {many} --repeats {repeats}`"
    origin = f"{command}, medians of {{repeats}}, {{machine}}, {{date}}; load average before {{load_before}}."
    return f"{markdown_table(header, rows, align_right=True)}\n\n{origin.format_map(recorded)}\n"


def main(
    few: int = 100, many: int = 2100, repeats: int = 3, earlier: Path | None = None, machine: str = "2 CPU cores"
) -> None:
    """Measure, and write the numbers and the table of the page.

    Args:
        few, many: references of the two processes.
        repeats: of both processes.
        earlier: folder of another checkout to compare with.
        machine: description for the page.
    """
    load = round(os.getloadavg()[0], 1)
    versions = {EARLIER: earlier.resolve()} if earlier else {}
    content = {
        "machine": machine,
        "date": datetime.date.today().isoformat(),
        "load_before": load,
        "few": few,
        "many": many,
        "repeats": repeats,
        "versions": measure(few, many, repeats, versions | {"now": ROOT}),
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_results(PAGE, page_table(content), MARK)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
