"""How long batches took: `timings.jsonl`, apart from the rows, since no two runs agree on it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

NAME = "timings.jsonl"


class Timings:
    """Lines of part, cases and seconds; `first` marks a process's first batch of a part, which may have compiled."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._seen: set[str] = set()
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):  # a line was torn
            self._write("\n")

    def add(self, part: str, cases: int, seconds: float) -> None:
        """Note a batch."""
        line = {"part": part, "cases": cases, "seconds": round(seconds, 6), "first": part not in self._seen}
        self._seen.add(part)
        self._write(json.dumps(line) + "\n")

    def adopt(self, folder: Path) -> None:
        """Note what another process has noted in its folder."""
        path = folder / NAME
        if path.exists():
            whole = path.read_text(encoding="utf-8").rpartition("\n")
            self._write(whole[0] + whole[1])

    def _write(self, text: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)


def seconds_per_case(folder: Path) -> dict[str, float]:
    """For each part, the median of seconds a case, of batches that were not the first where there are some."""
    later: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    path = folder / NAME
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:  # torn when a process was killed
            continue
        if isinstance(line, dict):
            kind = first if line["first"] else later
            kind.setdefault(line["part"], []).append(line["seconds"] / line["cases"])
    return {part: median(times) for part, times in (first | later).items()}
