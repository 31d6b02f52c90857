"""Progress of long work: a bar on a terminal, and elsewhere, as in a log file, a line a minute.

with progress_bar(1000, "encode") as bar:
bar.update(50)
with phase("load moai:7b"):  # work without a count: a line after two seconds, then one a minute
...
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

shown = True  # false for `r2t2 -q`
FIRST, EVERY = 2.0, 60.0  # seconds before the first line, and between two lines


class RepeatedLine:
    """Writes a line after `FIRST` seconds, and then every `EVERY` seconds, until it is stopped.

    Args:
        write: called in a thread of its own.
    """

    def __init__(self, write: Callable[[], None]) -> None:
        self._write, self._stopped = write, threading.Event()
        threading.Thread(target=self._repeat, daemon=True).start()

    def _repeat(self) -> None:
        seconds = FIRST
        while not self._stopped.wait(seconds):
            self._write()
            seconds = EVERY

    def stop(self) -> None:
        """Write no further line."""
        self._stopped.set()


class ProgressBar(tqdm):
    """A bar on a terminal and in a notebook; elsewhere a line a minute, and none for less than two seconds."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        file = options.get("file") or sys.stderr
        self._lines: RepeatedLine | None = None
        options["disable"] = options.get("disable") or not shown
        self._as_lines = not (options.get("disable") or file.isatty() or "ipykernel" in sys.modules)
        if self._as_lines:
            options |= {"delay": math.inf, "miniters": 1, "mininterval": EVERY, "dynamic_ncols": False}
        super().__init__(*arguments, **options)
        if self._as_lines and not self.disable:
            self._lines = RepeatedLine(self.write_line)

    def write_line(self) -> None:
        """Write the state as a line."""
        self.fp.write(f"{self}\n")
        self.fp.flush()

    def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:
        """Draw the bar, on a terminal."""
        return None if self._as_lines else super().display(msg, pos)

    def clear(self, nolock: bool = False) -> None:
        """Remove the bar, on a terminal."""
        if not self._as_lines:
            super().clear(nolock)

    def close(self) -> None:
        """Remove the bar; write no further line."""
        lines: RepeatedLine | None = getattr(self, "_lines", None)
        if lines is not None:
            lines.stop()
        super().close()


def progress_bar(total: int, title: str, unit: str = "sample", initial: int = 0) -> ProgressBar:
    """A bar that disappears when it is done."""
    return ProgressBar(total=total, desc=title, unit=unit, initial=initial, leave=False, dynamic_ncols=True)


@contextmanager
def phase(title: str) -> Iterator[None]:
    """Report work without a count on standard error: a line after two seconds, then one a minute with its duration."""
    start = time.perf_counter()

    def write() -> None:
        seconds = time.perf_counter() - start
        tqdm.write(f"{title} ..." + (f" {seconds / 60:.0f} min" if seconds >= EVERY else ""), file=sys.stderr)

    if not shown:
        yield
        return
    lines = RepeatedLine(write)
    try:
        yield
    finally:
        lines.stop()
