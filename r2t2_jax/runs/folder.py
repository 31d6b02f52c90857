"""A run's folder: what it is called in it, and which folders a run refuses."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import DRAFT
from r2t2_jax.runs.processes import PREFIX

RUN, SUMMARY = "run.json", "summary.json"


def check_folder(out: Path) -> None:
    """Refuse, before any work is done, a folder that cannot be written or holds anything but a run.

    Raises:
        R2T2Error: saying which.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        there = out if out.exists() else out.parent
        names = sorted(entry.name for entry in out.iterdir()) if there is out else []
    except OSError as error:
        raise R2T2Error(f"cannot write {out}: {error.strerror}") from error
    if not os.access(there, os.W_OK):
        raise R2T2Error(f"cannot write {out}: it may not be written to")
    foreign = [name for name in names if not name.startswith((DRAFT, NAME, PREFIX))]
    if foreign and RUN not in names:
        raise R2T2Error(f"{out} holds {foreign[0]!r}, which is no part of a run; choose another folder")


def read_json(path: Path) -> dict[str, Any]:
    """A file of a run.

    Raises:
        R2T2Error: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise R2T2Error(f"cannot read {path}: {error}") from error


NAME = "lock"


class FolderLock:
    """Hold `folder/lock`, in which others read who holds it.

    Raises:
        R2T2Error: another process holds it, or the file system knows no locks.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
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
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(descriptor, self._path):
                    return descriptor
            except BlockingIOError:
                holder = _holder(descriptor)
                os.close(descriptor)
                raise R2T2Error(f"{folder} is in use by {holder}; wait for it, or choose another folder") from None
            except OSError as error:
                os.close(descriptor)
                raise R2T2Error(f"cannot lock {folder}: {error.strerror}; choose a folder on a local disk") from error
            os.close(descriptor)  # its holder has just removed it

    def release(self) -> None:
        """Remove the file and let go."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError):
        return "another process"
