"""CPU time of a command and of all processes that it starts, from /proc (Linux).

The processes are those with a mark in their environment, which children inherit: the driver, Ray's own processes and
the workers. They are looked at ten times a second, so that at most a tenth of a second of each is missed, and processes
that live shorter than that.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARK = "R2T2_PROCESS_TREE"
INTERVAL = 0.1  # seconds
LOOKS = 20  # after which a process has no mark; one that has just forked has the environment of its parent
TICKS = os.sysconf("SC_CLK_TCK")
RAY = "Ray's own processes"
ROLES = (
    ("ray::_Worker", "worker"),
    ("ray::DashboardAgent", RAY),
    ("ray::RuntimeEnvAgent", RAY),
    ("ray::", "idle Ray worker"),
    ("r2t2_jax.cli.main", "driver"),
)


@dataclass
class TreeTimes:
    """Wall seconds of a command, and CPU seconds of its processes by role."""

    wall: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """CPU seconds of all processes."""
        return sum(self.cpu.values())


def run_and_measure(command: Sequence[str], environment: Mapping[str, str]) -> TreeTimes:
    """Run a command and measure it.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    mark, seconds, stop = uuid.uuid4().hex, dict[int, tuple[str, float]](), threading.Event()

    def watch() -> None:
        """Record the CPU time of every process that has the mark, until the command ends."""
        unmarked: Counter[int] = Counter()  # looks at a process without the mark
        while not stop.is_set():
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and unmarked[pid := int(entry.name)] < LOOKS:
                    try:
                        if pid not in seconds and mark.encode() not in (entry / "environ").read_bytes():
                            unmarked[pid] += 1
                        else:
                            name = role(entry) or seconds.get(pid, ("", 0.0))[0]  # one that has ended has no name
                            seconds[pid] = name, cpu_seconds(entry)
                    except OSError:  # it has just ended, or belongs to another user
                        continue
            stop.wait(INTERVAL)

    thread, start = threading.Thread(target=watch), time.perf_counter()
    thread.start()
    try:
        subprocess.run(command, env={**environment, MARK: mark}, check=True, capture_output=True)
    finally:
        wall = time.perf_counter() - start
        stop.set()
        thread.join()
    cpu: dict[str, float] = {}
    for name, used in seconds.values():
        cpu[name] = cpu.get(name, 0.0) + used
    return TreeTimes(wall, cpu)


def role(process: Path) -> str:
    """What a process does, by its command line; empty if it has ended."""
    line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    for part, name in ROLES:
        if part in line:
            return name
    return RAY if line else ""


def cpu_seconds(process: Path) -> float:
    """User and system time of a process."""
    numbers = re.sub(r"^.*\) ", "", (process / "stat").read_text()).split()
    return (int(numbers[11]) + int(numbers[12])) / TICKS
