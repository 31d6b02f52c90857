"""Start of whole processes, and the demonstration: `python -m benchmarks.startup`, 20 minutes on two idle cores.

Each measurement is a process of its own, from its start to its exit: `r2t2 --help`, `import r2t2_jax`, and
`r2t2 answer` on the pocket model without any compiled program (cold) and with those of an earlier process (warm). Both
have the references that an earlier process collected; the very first answer of a user collects them. `r2t2 demo` begins
with an empty cache each time; `--no-demo` leaves it out. The caches are folders of the measurement, not the user's. The
medians, with the least and the largest value, are written to `benchmarks/results/startup.json` and into
`docs/speed.md`, as are processor seconds, which depend less on other work on the machine.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from benchmarks.pages import write_results
from r2t2_jax.reporting.tables import markdown_table

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "startup.json", ROOT / "docs" / "speed.md"
MAIN = (sys.executable, "-m", "r2t2_jax.cli.main")
QUESTION = "what is printed on the circle ?"


def measure(
    command: Sequence[str], environment: dict[str, str], repeats: int, before: Callable[[], Any]
) -> dict[str, Any]:
    """Seconds of `repeats` processes; `before` is called before each and is not measured."""
    seconds, processor = [], []
    for _ in range(repeats):
        before()
        started, used = time.perf_counter(), os.times()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
        now = os.times()
        processor.append(now.children_user + now.children_system - used.children_user - used.children_system)
    return {
        "seconds": round(statistics.median(seconds), 3),
        "least": round(min(seconds), 3),
        "most": round(max(seconds), 3),
        "processor_seconds": round(statistics.median(processor), 3),
    }


def measure_all(repeats: int, folder: Path, demo: bool) -> dict[str, dict[str, Any]]:
    """Every measurement, by its label; files are written to `folder`."""
    image, run, cache = folder / "scene.png", folder / "demo", folder / "cache"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_FLAGS"))}
    environment["XDG_CACHE_HOME"] = str(cache)
    answer = (*MAIN, "answer", "--model", "pocket:narrow", "--image", str(image), "--question", QUESTION)
    subprocess.run(
        (*MAIN, "pocket", "scene", "--out", str(image)), env=environment, check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(answer, env=environment, check=True, stdout=subprocess.DEVNULL)  # collects the references

    def remove(*folders: Path) -> None:
        for each in folders:
            shutil.rmtree(each, ignore_errors=True)

    measured = {
        "r2t2 --help": measure((*MAIN, "--help"), environment, repeats, remove),
        "import r2t2_jax": measure((sys.executable, "-c", "import r2t2_jax"), environment, repeats, remove),
        "r2t2 answer, warm": measure(answer, environment, repeats, remove),
        "r2t2 answer, cold": measure(answer, environment, repeats, partial(remove, cache / "r2t2" / "compiled")),
    }
    if demo:
        command = (*MAIN, "demo", "--out", str(run))
        measured["r2t2 demo, cold"] = measure(command, environment, repeats, partial(remove, run, cache))
    return measured


def page_table(recorded: dict[str, Any]) -> str:
    """The recorded measurements as a Markdown table, and their origin."""
    rows = [
        [
            "`{}`{}{}".format(*name.partition(",")),
            f"{row['seconds']:.2f} ({row['least']:.2f} to {row['most']:.2f})",
            f"{row['processor_seconds']:.2f}",
        ]
        for name, row in recorded["processes"].items()
    ]
    table = markdown_table(["process", "s, median (least to most)", "processor s"], rows, align_right=True)
    origin = "`{command}`, n = {repeats} processes each, {machine}, {date}; load average before {load_before}."
    return f"{table}\n\n{origin.format_map(recorded)}\n"


def main(repeats: int = 7, demo: bool = True, machine: str = "2 CPU cores") -> None:
    """Measure, and write the numbers and the table of the page.

    Args:
        repeats: processes of each measurement.
        demo: whether to measure the demonstration, which takes most of the time.
        machine: description for the page.
    """
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure_all(repeats, Path(folder), demo)
    content = {
        "command": f"python -m benchmarks.startup --repeats {repeats}{'' if demo else ' --no-demo'}",
        "machine": machine,
        "date": datetime.date.today().isoformat(),
        "load_before": load,
        "repeats": repeats,
        "processes": measured,
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_results(PAGE, page_table(content), "startup")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
