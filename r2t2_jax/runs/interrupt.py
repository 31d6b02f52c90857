"""Stops a run between two batches, on SIGINT or SIGTERM or when its time limit is reached."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from r2t2_jax.errors import R2T2Error

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunInterrupted(Exception):
    """A run stopped before its plan was complete; the message has reason, progress and the command to resume."""


class StopRequest:
    """Handles SIGINT and SIGTERM while a run is open; a second signal interrupts immediately.

    Args:
        max_hours: time limit from now; `None` for no limit.

    Raises:
        R2T2Error: `max_hours` is not positive.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        if max_hours is not None and not max_hours > 0:
            raise R2T2Error(f"max_hours must be positive, not {max_hours}")
        self._max_hours = max_hours
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._signal: str | None = None
        self._earlier: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
            self._earlier = {number: signal.signal(number, self._listen) for number in SIGNALS}

    def _listen(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
        # Not print: the signal may have arrived in the middle of one.
        os.write(2, f"\n{self._signal}: stopping after this batch; send it again to stop immediately\n".encode())

    @property
    def reason(self) -> str | None:
        """The reason to stop now; `None` to continue."""
        if self._signal:
            return self._signal
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"the limit of {self._max_hours:g} hours is reached"
        return None

    def close(self) -> None:
        """Restore the earlier signal handlers."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
