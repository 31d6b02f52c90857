"""Directories that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from r2t2_jax.errors import R2T2Error

QUIET_CHECKS = 15


@contextmanager
def appearing(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` that becomes it if all goes well, and vanishes otherwise, as do new folders above.

    Its name is fixed, so that what a killed conversion left is found and cleared away by the next one; a lock that the
    system lets go with the process tells the two cases apart: killed, or still at work.
    """
    destination = Path(os.path.abspath(destination))
    folder = destination.with_name(f".{destination.name}.converting")
    new = [above for above in destination.parents if not above.exists()]
    handle = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        _lock(handle, destination)
        _clear(folder)
        yield folder
        _make_durable(folder)
        os.rename(folder, destination)
        _sync(destination.parent)
    except BaseException as error:
        if not isinstance(error, _Busy):
            _vanish(folder)
        for above in new:
            with suppress(OSError):
                above.rmdir()
        if isinstance(error, Exception) and not isinstance(error, R2T2Error):
            _explain(error, destination)
        raise
    finally:
        if handle is not None:
            os.close(handle)


class _Busy(R2T2Error):
    """The folder belongs to another process."""


def _lock(handle: int, destination: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _Busy(f"another conversion is writing {destination} at this moment") from error


def _clear(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _vanish(folder: Path) -> None:
    """Remove the folder until it stays away: of writes under way when one failed, others may bring it back."""
    quiet = 0
    while quiet < QUIET_CHECKS:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            quiet = 0
        else:
            quiet += 1
        time.sleep(0.02)


def _explain(error: Exception, destination: Path) -> None:
    """A failed write in one line; TensorStore tells of the system's errors in words alone. Other errors are ours."""
    words = str(error)
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        raise R2T2Error(f"cannot write {destination} ({error.strerror or words}{where})") from error
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
        if os.strerror(code) in words:
            raise R2T2Error(f"cannot write {destination} ({os.strerror(code)})") from error


def _make_durable(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            _sync(Path(place) / name)
        _sync(Path(place))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
