"""Every failure prints one line and sets the exit code; a traceback is printed only on request."""

import builtins
import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from r2t2_jax.cli import main as cli
from r2t2_jax.cli import run
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.interrupt import RunInterrupted


@dataclass(frozen=True)
class Fail:
    """Fail."""

    how: ClassVar[BaseException | int | None] = None

    def run(self) -> int | None:
        if isinstance(self.how, BaseException):
            raise self.how
        return self.how


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        (None, 0, ""),
        (1, 1, ""),
        (R2T2Error("no such\n bank"), 2, "r2t2: no such bank"),
        (RunInterrupted("SIGTERM: stopped"), 0, "r2t2: SIGTERM: stopped"),
        (KeyboardInterrupt(), 130, "r2t2: interrupted"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (OSError(errno.ENOSPC, "No space left on device", "out/rows"), 2, "r2t2: out/rows: No space left on device"),
        (OSError("odd"), 2, "r2t2: odd"),
        (MemoryError(), 2, "r2t2: out of memory (no message); use fewer samples or references, or a smaller k"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"),
            2,
            "r2t2: out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.); "
            "use fewer samples or references, or a smaller k",
        ),
        (KeyError("k"), 2, "r2t2: unexpected KeyError: 'k'; set R2T2_DEBUG=1 for the traceback"),
    ],
)
def test_every_outcome_has_its_exit_code_and_at_most_one_line(
    how: BaseException | int | None,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", {"fail": Fail})
    monkeypatch.setattr(Fail, "how", how)
    assert cli.main(["fail"]) == code
    assert capsys.readouterr().err == (f"{line}\n" if line else "")
    monkeypatch.setenv("R2T2_DEBUG", "1")
    if code > 1:
        with pytest.raises(type(how)):
            cli.main(["fail"])
    else:
        assert cli.main(["fail"]) == code


@dataclass(frozen=True)
class Stopped:
    """A run that is interrupted at once."""

    out: Path

    def run(self) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_says_what_is_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", {"stopped": Stopped})
    monkeypatch.setattr(cli, "RESUMABLE", (Stopped,))
    words = ["stopped", "--out", str(tmp_path)]
    assert cli.main(words) == 130
    assert capsys.readouterr().err == "r2t2: interrupted; nothing is saved yet\n"
    (tmp_path / "batches").mkdir()
    for number in range(2):
        (tmp_path / "batches" / f"0000{number}.parquet").touch()
    assert cli.main(words) == 130
    line = f"r2t2: interrupted; 2 batches are saved in {tmp_path}: the same command resumes\n"
    assert capsys.readouterr().err == line


def test_an_interruption_while_modules_are_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def importing(name: str, *arguments: Any) -> Any:
        if name == "r2t2_jax.cli.main":
            raise KeyboardInterrupt
        return original(name, *arguments)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", importing)
    assert run() == 130
    assert capsys.readouterr().err == "r2t2: interrupted\n"


HELP = [sys.executable, "-m", "r2t2_jax.cli.main", "demo", "--help"]


def test_a_closed_pipe_prints_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(HELP, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_of_the_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(HELP, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "r2t2: No space left on device\n")
