"""Rate and peak memory of `r2t2 bank build` and `r2t2 bank atlas`: `python -m benchmarks.bank_rates`.

Each command is a process of its own, once with few references of `pocket:narrow` and once with many: the difference of
their times is the time of the further references, without start and compilation. The peak memory is the largest
resident size of the process with many, as the operating system reports it. Processor seconds depend less on other work
on the machine than seconds. The numbers are written to `benchmarks/results/bank_rates.json`, under the name that
`--version` gives, and the table into docs/bank.md.

    python -m benchmarks.bank_rates
    python -m benchmarks.bank_rates --version "the first version" --package ../earlier  # another checkout
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from benchmarks.pages import write_results
from r2t2_jax.reporting.tables import markdown_table

ROOT = Path(__file__).parent.parent
RESULTS, PAGE, MARK = ROOT / "benchmarks" / "results" / "bank_rates.json", ROOT / "docs" / "bank.md", "rates"
COMMANDS = ("bank build", "bank atlas")
COLUMNS = (
    ("references_per_second", "references per s"),
    ("references_per_processor_second", "references per processor s"),
    ("memory_mib", "peak memory, MiB"),
)
IDLE = 1.0  # load average of a machine without other work


class Usage(NamedTuple):
    """Seconds and processor seconds of a process, and its peak memory in MiB."""

    seconds: float
    processor: float
    memory: float


def run(command: tuple[str, ...], environment: dict[str, str]) -> Usage:
    """Run `r2t2` with these arguments.

    Raises:
        CalledProcessError: it fails.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        (sys.executable, "-m", "r2t2_jax.cli.main", *command), env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.perf_counter() - started
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(few: int, many: int, package: Path) -> dict[str, dict[str, float]]:
    """Rates and peak memory of both commands, by command."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(package.resolve()), "XDG_CACHE_HOME": folder}
        usages: dict[str, list[Usage]] = {command: [] for command in COMMANDS}
        for name, limit in (("compile", few), ("few", few), ("many", many)):  # the first fills the cache of programs
            bank = f"{folder}/{name}"
            arguments = ("--model", "pocket:narrow")
            build = (*COMMANDS[0].split(), *arguments, "--data", "pocket", "--limit", str(limit), "--out", bank)
            atlas = (*COMMANDS[1].split(), bank, *arguments)
            usages["bank build"].append(run(build, environment))
            usages["bank atlas"].append(run(atlas, environment))
    return {command: rates(least, most, many - few) for command, (_, least, most) in usages.items()}


def rates(few: Usage, many: Usage, further: int) -> dict[str, float]:
    """References per second and per processor second, and the peak memory with many references in MiB."""
    return {
        "references_per_second": round(further / (many.seconds - few.seconds), 1),
        "references_per_processor_second": round(further / (many.processor - few.processor), 1),
        "memory_mib": round(many.memory),
    }


def page_table(recorded: dict[str, Any]) -> str:
    """The recorded measurements as a Markdown table, and their origin.

    Rates per second are shown if the machine was idle: other work changes the difference of two times too much.
    """
    columns = COLUMNS if recorded["load_before"] <= IDLE else COLUMNS[1:]
    rows = [
        [f"`{command}`", version, *(f"{numbers[command][key]:,.0f}" for key, _ in columns)]
        for command in COMMANDS
        for version, numbers in recorded["versions"].items()
    ]
    header = ["command", "version", *(title for _, title in columns)]
    command = "`python -m benchmarks.bank_rates --few {few} --many {many}`"
    origin = f"{command}, n = 1 process each, {{machine}}, {{date}}; load average before {{load_before}}."
    return f"{markdown_table(header, rows, align_right=True)}\n\n{origin.format_map(recorded)}\n"


def main(
    few: int = 200, many: int = 1000, version: str = "now", package: Path = ROOT, machine: str = "2 CPU cores"
) -> None:
    """Measure one version, and write its numbers and the table of the page.

    Args:
        few, many: references of the two processes.
        version: name of the measured version; other versions keep their numbers.
        package: folder that holds the measured `r2t2_jax` and its ports.
        machine: description for the page.
    """
    load = round(os.getloadavg()[0], 1)
    earlier = json.loads(RESULTS.read_text(encoding="utf-8"))["versions"] if RESULTS.exists() else {}
    content = {
        "machine": machine,
        "date": datetime.date.today().isoformat(),
        "load_before": load,
        "few": few,
        "many": many,
        "versions": {**earlier, version: measure(few, many, package)},
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_results(PAGE, page_table(content), MARK)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
