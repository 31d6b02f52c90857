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
TICK = 1.0  # seconds between two drawings of a bar that does not advance


class RepeatedLine:
    """Writes a line after `first` seconds, and then every `every` seconds, until it is stopped.

    Args:
        write: called in a thread of its own.
        first, every: by default `FIRST` and `EVERY`.
    """

    def __init__(self, write: Callable[[], None], first: float | None = None, every: float | None = None) -> None:
        self._write, self._stopped = write, threading.Event()
        self._first, self._every = FIRST if first is None else first, EVERY if every is None else every
        threading.Thread(target=self._repeat, daemon=True).start()

    def _repeat(self) -> None:
        seconds = self._first
        while not self._stopped.wait(seconds):
            self._write()
            seconds = self._every

    def stop(self) -> None:
        """Write no further line."""
        self._stopped.set()


class ProgressBar(tqdm):
    """A bar on a terminal and in a notebook; elsewhere a line a minute, and none for less than two seconds.

    With `compiles` its title says so until the first samples are done, and on a terminal its clock runs meanwhile.
    """

    def __init__(self, *arguments: Any, compiles: bool = False, **options: Any) -> None:
        file = options.get("file") or sys.stderr
        self._lines: RepeatedLine | None = None
        self._title = options.get("desc", "") if compiles else None
        if self._title is not None:
            options["desc"] = f"{self._title}, compiling"
        options["disable"] = options.get("disable") or not shown
        self._as_lines = not (options.get("disable") or file.isatty() or "ipykernel" in sys.modules)
        if self._as_lines:
            options |= {"delay": math.inf, "miniters": 1, "mininterval": EVERY, "dynamic_ncols": False}
        super().__init__(*arguments, **options)
        if self.disable:
            return
        if self._as_lines:
            self._lines = RepeatedLine(self.write_line)
        elif self._title is not None and file.isatty():
            self._lines = RepeatedLine(self._redraw, TICK, TICK)

    def _redraw(self) -> None:
        with self.get_lock():
            if not self.disable:
                self.display()

    def update(self, n: float | None = 1) -> bool | None:
        """Advance by n samples; the first ones end the time in which programs are compiled."""
        if self._title is not None and n:
            self.set_description_str(self._title, refresh=False)
            self._title = None
            if not self._as_lines and self._lines is not None:
                self._lines.stop()
        return super().update(n)

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


def progress_bar(total: int, title: str, unit: str = "sample", initial: int = 0, compiles: bool = True) -> ProgressBar:
    """A bar that disappears when it is done; `compiles` says whether the first samples wait for compiled programs."""
    return ProgressBar(
        total=total, desc=title, unit=unit, initial=initial, compiles=compiles, leave=False, dynamic_ncols=True
    )


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
