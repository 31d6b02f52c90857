"""Durations of batches, in `timings.jsonl`: kept apart from the rows, since they differ between equal runs."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

TIMINGS = "timings.jsonl"


class Timings:
    """Appends lines of part, samples and seconds.

    `first` marks the first batch of a part in a process, whose time may include compilation.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / TIMINGS
        self._timed: set[str] = set()
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):  # the last line is incomplete
            self._write("\n")

    def add(self, part: str, samples: int, seconds: float) -> None:
        """Append the time of a batch."""
        line = {"part": part, "samples": samples, "seconds": round(seconds, 6), "first": part not in self._timed}
        self._timed.add(part)
        self._write(json.dumps(line) + "\n")

    def _write(self, text: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)


def seconds_per_sample(folder: Path) -> dict[str, float]:
    """The median seconds per sample of each part; first batches count only where a part has no others."""
    later: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    path = folder / TIMINGS
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:  # incomplete, since a process was killed
            continue
        if isinstance(line, dict):
            times = first if line["first"] else later
            times.setdefault(line["part"], []).append(line["seconds"] / line["samples"])
    return {part: median(times) for part, times in (first | later).items()}
