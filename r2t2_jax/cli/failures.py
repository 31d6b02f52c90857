"""Why a command ended, in one line for the person at the terminal, and the exit code that goes with it."""

from __future__ import annotations

import os
import sys

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.stopping import Stopped

FAILED, INTERRUPTED, PIPE_CLOSED = 2, 130, 141  # the latter two as a shell reports SIGINT and SIGPIPE


def explain(error: BaseException) -> tuple[str, int]:
    """The line to print, empty for none, and the exit code."""
    if isinstance(error, R2T2Error):
        return str(error), FAILED
    if isinstance(error, Stopped):
        return str(error), 0
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "", PIPE_CLOSED
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"out of memory ({_short(error)}); ask for fewer samples or references, or a smaller k", FAILED
    if isinstance(error, OSError):
        return _system(error), FAILED
    return f"unexpected {type(error).__name__}: {_short(error)}; R2T2_DEBUG=1 shows where", FAILED


def _system(error: OSError) -> str:
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror or _short(error)}"


def _short(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else "no message"


def forget_output() -> None:
    """Where output can no longer be written, let the interpreter's last flush go nowhere instead of failing again."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
