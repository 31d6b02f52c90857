"""The folder of a run: names of its files, checks before writing, its lock, and the durations of its batches."""

from __future__ import annotations

import json
import os
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from filelock import lock_descriptor

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import WINDOWS, check_can_create, is_at, is_draft, remove
from r2t2_jax.runs.fingerprint import check_settings
from r2t2_jax.runtime import typed_json
from r2t2_jax.runtime.typed_files import read_text

RUN, SUMMARY, LOCK = "run.json", "summary.json", "lock"
TIMINGS = "timings.jsonl"  # durations of batches, apart from the rows, since they differ between equal runs


def check_folder(out: Path, command: str = "", settings: Mapping[str, Any] | None = None) -> None:
    """Check, before any work is done, that a folder is writable and holds nothing but a run, of the same settings.

    Args:
        out: the folder; it need not exist.
        command: as typed after `r2t2`; a run of another command is refused. Empty to leave the run unread.
        settings: the command's options as `run.json` holds them; `None` to compare the command only.

    Raises:
        R2T2Error: the folder cannot be written, holds another file (named), a run in the former format, or a run with
            other settings (named).
    """
    check_format(out)
    check_can_create(out)
    try:
        names = sorted(entry.name for entry in out.iterdir()) if out.exists() else []
    except OSError as error:
        raise R2T2Error(f"cannot write {out}: {error.strerror}") from error
    foreign = [name for name in names if not (is_draft(name) or (name == LOCK and _is_lock(out / LOCK)))]
    if foreign and RUN not in names:
        raise R2T2Error(f"{out} holds {foreign[0]!r}, which is not part of a run; choose another folder")
    if command and RUN in names:
        check_settings(read_json(out / RUN), command, settings or {}, str(out))


WITHOUT_FOLDER = ("bank atlas",)  # commands that choose the folder of their run


def resume_command(command: str, folder: Path) -> str:
    """The command that resumes the run in a folder."""
    if command in WITHOUT_FOLDER:
        return f"the r2t2 {command} that began it"
    return f"r2t2 {command} --config {shlex.quote(str(folder / RUN))} --out {shlex.quote(str(folder))}"


def check_format(folder: Path) -> None:
    """Refuse a run whose rows are in the former format.

    Raises:
        R2T2Error: the folder holds `shard-*.rows`.
    """
    if (folder / "shard-00000.rows").exists():
        raise R2T2Error(
            f"{folder} holds a run in the former format (shard-00000.rows), which this version does not read; "
            "choose another folder to run it again"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of a run.

    Raises:
        R2T2Error: the file cannot be read, or does not hold an object.
    """
    return typed_json.read_json(path, dict)


def _is_lock(path: Path) -> bool:
    """Whether a file may be the lock of a run: it is empty, or names the process that holds it."""
    try:
        content = path.read_bytes()[:100] if path.is_file() else b"other"
    except OSError:  # Windows: another process holds it
        return True
    return not content or content.startswith(b'{"pid"')


class FolderLock:
    """An exclusive lock on `folder/lock`; the file names the process that holds it.

    Raises:
        R2T2Error: another process holds the lock, or the file system does not support locks.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._descriptor = self._acquire(folder)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(" ", "seconds"),
        }
        os.truncate(self._descriptor, 0)
        os.write(self._descriptor, json.dumps(holder).encode())

    def _acquire(self, folder: Path) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if not lock_descriptor(descriptor, blocking=False):
                    holder = _holder(descriptor)
                    raise R2T2Error(f"{folder} is in use by {holder}; wait for it, or choose another folder")
                if is_at(descriptor, self._path):
                    return descriptor
            except R2T2Error:
                os.close(descriptor)
                raise
            except OSError as error:
                os.close(descriptor)
                raise R2T2Error(f"cannot lock {folder}: {error.strerror}; choose a folder on a local disk") from error
            os.close(descriptor)  # the holder has just removed the file

    def release(self) -> None:
        """Remove the file and release the lock."""
        if WINDOWS:  # an open file cannot be removed, and the next holder may have opened it
            os.close(self._descriptor)
            remove(self._path)
            return
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _holder(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = json.loads(os.read(descriptor, 4096))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError, OSError):  # Windows does not let others read a locked file
        return "another process"


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
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)


@dataclass(frozen=True)
class _Timing:
    part: str
    samples: int
    seconds: float
    first: bool


def seconds_per_sample(folder: Path) -> dict[str, float]:
    """The median seconds per sample of each part; first batches count only where a part has no others.

    Raises:
        R2T2Error: a line is complete, but no duration.
    """
    later: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    path = folder / TIMINGS
    for number, text in enumerate(read_text(path).split("\n") if path.exists() else (), start=1):
        if not text.endswith("}"):  # incomplete, since a process was killed
            continue
        line = typed_json.parse_json(text, f"{path}:{number}", "delete the file", lines=False).as_type(_Timing)
        times = first if line.first else later
        times.setdefault(line.part, []).append(line.seconds / max(1, line.samples))
    return {part: median(times) for part, times in (first | later).items()}
