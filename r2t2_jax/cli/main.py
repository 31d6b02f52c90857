"""`r2t2`: parses the arguments, runs the command, and reports every error as one line and an exit code.

Its output can be printed anywhere: with any encoding, to a closed stream, and without terminal escapes of the data.
"""

from __future__ import annotations

import gc
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from r2t2_jax.cli.answer import Answer
from r2t2_jax.cli.bank import BankAtlas, BankBuild, BankImport, BankIndex, BankInspect
from r2t2_jax.cli.cost import Convert, Cost, FitMemory
from r2t2_jax.cli.datasets import AuxBuild, AuxImport, PocketScene, PrepareDataset, ShowDataset
from r2t2_jax.cli.demo import Demo
from r2t2_jax.cli.diagnose import CheckPort, Diagnose
from r2t2_jax.cli.evaluate import Eval
from r2t2_jax.cli.listings import ListDatasets, ListMetrics, ListModels, ListStrategies
from r2t2_jax.cli.options import check_ranges
from r2t2_jax.cli.output import take_verbosity
from r2t2_jax.cli.parsing import Command, ShellCompletion, parse
from r2t2_jax.cli.reproduce import Reproduce
from r2t2_jax.cli.routes import ExpertsCompare, ExpertsMap, RoutesExport, RoutesImport, RoutesRecord, RoutesShow
from r2t2_jax.cli.runs import Export, Report, Results, Score
from r2t2_jax.cli.serve import Serve
from r2t2_jax.cli.steering import ExpertsMask, ExpertsSteer
from r2t2_jax.cli.tune import Tune
from r2t2_jax.errors import R2T2Error, R2T2Warning
from r2t2_jax.runs.interrupt import RunInterrupted

FAILED, INTERRUPTED, PIPE_CLOSED, TERMINATED = 2, 130, 141, 143  # the codes of shells for SIGINT, SIGPIPE, SIGTERM


ASCII = str.maketrans(
    {"→": "->", "←": "<-", "−": "-", "–": "-", "±": "+-", "×": "x", "·": ".", "…": "...", "≥": ">=", "≤": "<="}
    | dict.fromkeys("─━═", "-")
    | dict.fromkeys("│┃║", "|")
    | dict.fromkeys("┼╋┌┐└┘├┤┬┴", "+")
    | dict.fromkeys("█▉▊▋▌▍▎▏", "#")
)
OWN_ESCAPE = r"\x1b\[(?:[\d;]*m|\d*[ABCDGK]|\?25[hl])"  # colors, and the cursor of progress bars
CONTROL = re.compile(rf"({OWN_ESCAPE})|([\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069])")


class Terminated(BaseException):
    """SIGTERM was received. Raised so that unfinished files are removed, as after an error."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def explain(error: BaseException) -> tuple[str, int]:
    """The line to print (empty for none) and the exit code."""
    if isinstance(error, R2T2Error):
        return str(error), FAILED
    if isinstance(error, RunInterrupted):
        return str(error), 0
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, Terminated):
        return "terminated", TERMINATED
    if isinstance(error, BrokenPipeError):
        return "", PIPE_CLOSED
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"out of memory ({_short(error)}); use fewer samples or references, or a smaller k", FAILED
    if isinstance(error, OSError):
        return _system(error), FAILED
    return f"unexpected {type(error).__name__}: {_short(error)}; set R2T2_DEBUG=1 for the traceback", FAILED


def _system(error: OSError) -> str:
    prefix = "" if error.filename is None else f"{error.filename}: "
    return f"{prefix}{error.strerror or _short(error)}"


def _short(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else "no message"


def discard_output() -> None:
    """If output cannot be written, redirect it to the null device, so that the interpreter's last flush succeeds."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def inert(text: str, terminal: bool) -> str:
    r"""The text with control characters written as `\x1b`; on a terminal, colors and progress bars keep theirs."""
    return CONTROL.sub(lambda match: match[0] if match[1] and terminal else _escaped(match[0]), text)


def _escaped(text: str) -> str:
    code = ord(text[0])
    return (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}") + text[1:]


class PrintableStream(io.TextIOBase):
    """A text stream that writes `inert` text to another one, in letters that its encoding has."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._terminal = bool(stream.isatty())
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return self._encoding

    @property
    def buffer(self) -> Any:
        """The bytes below the stream."""
        return self._stream.buffer

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        plain = inert(text, self._terminal)
        try:
            plain.encode(self._encoding)
        except UnicodeEncodeError:
            plain = "".join(map(self._writable, plain))
        self._stream.write(plain)
        return len(text)

    def _writable(self, letter: str) -> str:
        try:
            letter.encode(self._encoding)
        except UnicodeEncodeError:
            return letter.translate(ASCII).encode("ascii", "backslashreplace").decode()
        return letter

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._terminal

    def fileno(self) -> int:
        """The descriptor of the stream."""
        return int(self._stream.fileno())

    def writable(self) -> bool:
        """Whether the stream can be written: always."""
        return True


@contextmanager
def printable_output() -> Iterator[None]:
    """Replace standard output and standard error by `PrintableStream`; closed ones by the null device."""
    earlier = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as null:
        sys.stdout, sys.stderr = (PrintableStream(null if stream is None else stream) for stream in earlier)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = earlier


# To add a command, add a row: the words that a user types ("bank build" is `build` in the group `bank`) and a class.
# Its fields are the options; the string below a field is its help, and a field without default is required. `run()`
# executes the command and returns `None`, or 1 if it found problems. The docstring is the help: one sentence, optional
# paragraphs, and at the end "Example: r2t2 ...". The module imports jax, numpy and the like only inside functions.
COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,  # first, since new users begin with it; the others are sorted
    "answer": Answer,
    "aux build": AuxBuild,
    "aux import": AuxImport,
    "bank atlas": BankAtlas,
    "bank build": BankBuild,
    "bank import": BankImport,
    "bank index": BankIndex,
    "bank inspect": BankInspect,
    "check": CheckPort,
    "completion": ShellCompletion,
    "convert": Convert,
    "cost": Cost,
    "datasets list": ListDatasets,
    "datasets prepare": PrepareDataset,
    "datasets show": ShowDataset,
    "diagnose": Diagnose,
    "eval": Eval,
    "experts compare": ExpertsCompare,
    "experts map": ExpertsMap,
    "experts mask": ExpertsMask,
    "experts steer": ExpertsSteer,
    "export": Export,
    "fit": FitMemory,
    "metrics": ListMetrics,
    "models": ListModels,
    "pocket scene": PocketScene,
    "report": Report,
    "reproduce": Reproduce,
    "results": Results,
    "routes export": RoutesExport,
    "routes import": RoutesImport,
    "routes record": RoutesRecord,
    "routes show": RoutesShow,
    "score": Score,
    "serve": Serve,
    "strategies": ListStrategies,
    "tune": Tune,
}


RESUMABLE = (Demo, Eval, BankBuild, Tune, Reproduce, RoutesRecord)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` default to those of the process.

    Returns:
        0; 1 if the command found problems; 2 after an error, which is printed in one line, or raised with
        `-v` or `R2T2_DEBUG=1`; 130 after an interruption, 143 after SIGTERM.

    Raises:
        SystemExit: with 2, after printing the line, if the options cannot be parsed.
    """
    if arguments is None:
        gc.set_threshold(50_000, *gc.get_threshold()[1:])  # importing and tracing collect no garbage, and take longer
    words, quiet, verbose = take_verbosity(sys.argv[1:] if arguments is None else arguments)
    debug = verbose or os.environ.get("R2T2_DEBUG") == "1"
    if verbose:
        os.environ.setdefault("JAX_LOG_COMPILES", "1")
    with printable_output(), _sigterm_as_exception(), warnings.catch_warnings(), _progress(not quiet):
        if quiet:
            warnings.simplefilter("ignore")
        elif not debug and not sys.warnoptions:
            warnings.simplefilter("ignore")  # of libraries, about their own code
            warnings.filterwarnings("default", category=R2T2Warning)
            warnings.showwarning = _print_once()
        command: Command | None = None
        try:
            try:
                command = parse(COMMANDS, words)
                check_ranges(command)
                return command.run() or 0
            finally:
                sys.stdout.flush()  # a full disk or a closed pipe raises here, not when the interpreter exits
        except (Exception, KeyboardInterrupt, Terminated) as error:
            line, code = explain(error)
            if code in (INTERRUPTED, TERMINATED):
                line += _saved(command)
            if code and debug:
                raise
            discard_output()
            if line:
                print(f"r2t2: {' '.join(line.split())}", file=sys.stderr)
            return code


def _saved(command: Command | None) -> str:
    """What a command that was interrupted at once leaves of its run, and how to resume it."""
    folder = getattr(command, "out", None)
    if not isinstance(command, RESUMABLE) or not isinstance(folder, Path):
        return ""
    count = len(list(folder.glob("batches/*.parquet")))
    return f"; {count:,} batches are saved in {folder}: the same command resumes" if count else "; nothing is saved yet"


def _print_once() -> Callable[..., None]:
    """Print a warning as one line, unless this command printed the line before: a file may be read twice."""
    printed: set[str] = set()

    def show(message: Warning | str, *_: Any) -> None:
        line = f"r2t2: {message}"
        if line not in printed:
            printed.add(line)
            print(line, file=sys.stderr)

    return show


@contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """Show progress and notes on standard error, or none of them."""
    from r2t2_jax.runtime import progress

    before, progress.shown = progress.shown, shown
    try:
        yield
    finally:
        progress.shown = before


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM, so that `finally` blocks run; only the main thread may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


if __name__ == "__main__":
    sys.exit(main())
