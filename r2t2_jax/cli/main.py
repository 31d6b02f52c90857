"""`r2t2`: parses the arguments, runs the command, and reports every error as one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from r2t2_jax.cli.answer import Answer
from r2t2_jax.cli.bank import BankAtlas, BankBuild, BankImport, BankIndex, BankInspect
from r2t2_jax.cli.convert import Convert
from r2t2_jax.cli.cost import Cost, FitMemory
from r2t2_jax.cli.datasets import AuxBuild, ListDatasets, PocketScene, PrepareDataset, ShowDataset
from r2t2_jax.cli.demo import Demo
from r2t2_jax.cli.diagnose import Diagnose
from r2t2_jax.cli.evaluate import Eval
from r2t2_jax.cli.parsing import Command, parse
from r2t2_jax.cli.reproduce import Reproduce
from r2t2_jax.cli.runs import Export, Report, Results, Score
from r2t2_jax.cli.tune import Tune
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.interrupt import RunInterrupted

FAILED, INTERRUPTED, PIPE_CLOSED = 2, 130, 141  # the last two are the codes of shells for SIGINT and SIGPIPE


def explain(error: BaseException) -> tuple[str, int]:
    """The line to print (empty for none) and the exit code."""
    if isinstance(error, R2T2Error):
        return str(error), FAILED
    if isinstance(error, RunInterrupted):
        return str(error), 0
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
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


# To add a command, add a row: the words that a user types ("bank build" is `build` in the group `bank`) and a class.
# Its fields are the options; the string below a field is its help, and a field without default is required. `run()`
# executes the command and returns `None`, or 1 if it found problems. The docstring is the help: one sentence, optional
# paragraphs, and at the end "Example: r2t2 ...". The module imports jax, numpy and the like only inside functions.
COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,  # first, since new users begin with it; the others are sorted
    "answer": Answer,
    "aux build": AuxBuild,
    "bank atlas": BankAtlas,
    "bank build": BankBuild,
    "bank import": BankImport,
    "bank index": BankIndex,
    "bank inspect": BankInspect,
    "convert": Convert,
    "cost": Cost,
    "datasets list": ListDatasets,
    "datasets prepare": PrepareDataset,
    "datasets show": ShowDataset,
    "diagnose": Diagnose,
    "eval": Eval,
    "export": Export,
    "fit": FitMemory,
    "pocket scene": PocketScene,
    "report": Report,
    "reproduce": Reproduce,
    "results": Results,
    "score": Score,
    "tune": Tune,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` default to those of the process.

    Returns:
        0; 1 if the command found problems; 2 after an error, which is printed in one line, or raised with
        `R2T2_DEBUG=1`; 130 after an interruption. For invalid options the parser itself exits with 2.
    """
    try:
        try:
            return parse(COMMANDS, sys.argv[1:] if arguments is None else arguments).run() or 0
        finally:
            sys.stdout.flush()  # a full disk or a closed pipe raises here, not when the interpreter exits
    except (Exception, KeyboardInterrupt) as error:
        line, code = explain(error)
        if code and os.environ.get("R2T2_DEBUG") == "1":
            raise
        discard_output()
        if line:
            print(f"r2t2: {' '.join(line.split())}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
