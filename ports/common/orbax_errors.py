"""Orbax reports an error many times over; once is enough."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_told_once() -> Iterator[None]:
    """Keep to the error that is raised.

    Besides it, Orbax logs a traceback from each of its threads, and the asyncio tasks that it leaves behind complain
    that their loop is closed or that nobody asked for their result. The last of them do so when the error was raised
    long since, so after an error the hook that drops these complaints, and nothing else, stays.
    """
    loggers = {name: logging.getLogger(name) for name in ("absl", "asyncio")}
    levels, hook = {name: logger.level for name, logger in loggers.items()}, sys.unraisablehook
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda told: None if "Event loop is closed" in str(told.exc_value) else hook(told)
    try:
        yield
        sys.unraisablehook = hook
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
