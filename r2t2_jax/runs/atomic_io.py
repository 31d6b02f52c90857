"""Atomic writes of files and folders: write a locked draft next to the target, fsync, then rename or exchange.

A kill at any moment leaves the earlier content or the new content under the target's name, and each is whole. The draft
of a killed process has lost its lock, so the next write to the same parent folder removes it.

On Windows an open file cannot be renamed, a locked one cannot be written through another handle, and a folder cannot be
opened. There the lock is a file next to the draft, and folders are not synced.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error

DRAFT = ".draft-"
OWN = f"{DRAFT}r2t2-"  # drafts that may be removed from any folder: no other program uses this name
RUN_DRAFT = re.compile(  # in the folder of a run: the bank, and drafts of earlier versions, with a process id
    rf"{re.escape(DRAFT)}(\d+-)?(bank|(run|summary|preset)\.json|(rows|references|samples|\d{{5,}})\.parquet)"
)
EARLIER = "-earlier"
LOCK_FILE = ".r2t2-lock"  # ends the name of a draft's lock where the draft cannot be locked itself
WINDOWS = os.name == "nt"
LONGEST_PART = 255  # bytes of a name, on all usual file systems
LONGEST_NAME = 200  # bytes of a target's name that its draft's name repeats
AT_FDCWD, RENAME_EXCHANGE = -100, 2
NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)  # the kernel or the file system cannot exchange names


def atomic_write(path: Path, write: Callable[[Path], Any], clean: bool = True) -> None:
    """Write a file, replacing an earlier one, and create missing parent folders.

    Args:
        path: the file.
        write: called with the path of the draft, an empty file.
        clean: remove drafts of killed processes from the folder; `False` where `remove_drafts` was called before.

    Raises:
        R2T2Error: the path is a folder or a device.
        OSError: the file could not be written; an earlier one is unchanged and no draft or new folder is left.
    """
    with _draft(path, False, clean) as (draft, target):
        write(draft)
        sync(draft)
        os.replace(draft, target)
        sync(target.parent)


def atomic_folder(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder, replacing an earlier one, and create missing parent folders.

    The caller checks that an earlier folder may be replaced (`check_only_own`).

    Args:
        path: the folder.
        write: called with the path of the draft, an empty folder.

    Raises:
        R2T2Error: the path is a file.
        OSError: the folder could not be written; an earlier one is unchanged and no draft or new folder is left.
    """
    with _draft(path, True, True) as (draft, target):
        write(draft)
        for part in (*draft.rglob("*"), draft):
            sync(part)
        if target.exists():
            exchange(draft, target)
        else:
            os.rename(draft, target)
        sync(target.parent)


def publish_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; raises `ValueError` on NaN and infinity."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    atomic_write(path, lambda draft: draft.write_text(text, encoding="utf-8", newline="\n"))


def check_only_own(folder: Path, own: Callable[[str], bool], content: str, required: Collection[str] = ()) -> None:
    """Check that a folder may be replaced: everything in it, and below it, was written by this program.

    Args:
        folder: a folder that may exist.
        own: whether this program writes a file of that name; below a subfolder the name is `subfolder/name`.
        content: what the folder should be, as in "a report".
        required: files that this program always writes; without them a folder with others is not its own.

    Raises:
        R2T2Error: there is a file in its place, the folder or one below it holds another entry (named), or lacks a
            required file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise R2T2Error(f"cannot write {folder}: a file of that name exists; choose another name")
    names = sorted(_names_below(folder))
    for name in names:
        if not own(name):
            raise R2T2Error(f"{folder} holds {name!r}, which is not part of {content}; choose another name")
    absent = [name for name in required if name not in names]
    if names and absent:
        problem = f"{folder} holds {names[0]!r} and no {absent[0]!r}, so it is not {content}"
        raise R2T2Error(f"{problem}; choose another name")


def _names_below(folder: Path, prefix: str = "") -> Iterator[str]:
    """The names of all files, links and empty folders below a folder, but those of drafts."""
    for entry in folder.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.name.startswith(OWN):
            continue
        if entry.is_dir() and not entry.is_symlink() and any(entry.iterdir()):
            yield from _names_below(entry, f"{name}/")
        else:
            yield name


def check_can_create(path: Path) -> None:
    """Check, before any work is done, that a file or folder can be created, without creating anything.

    Raises:
        R2T2Error: a part of the path is a file, its name is too long, or the nearest existing folder is not writable.
    """
    absolute = Path(os.path.abspath(path))
    try:
        existing = next(parent for parent in (absolute, *absolute.parents) if _exists(parent))
    except OSError as error:
        raise R2T2Error(f"cannot write {path}: {error.strerror}") from error
    folder = existing if existing.is_dir() else existing.parent
    if existing != absolute and not existing.is_dir():
        raise R2T2Error(f"cannot write {path}: {existing} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise R2T2Error(f"cannot write {path}: permission denied")
    if existing != absolute and any(len(os.fsencode(part)) > LONGEST_PART for part in absolute.parts):
        raise R2T2Error(f"cannot write {path}: {os.strerror(errno.ENAMETOOLONG)}")


def _exists(path: Path) -> bool:
    """As `Path.exists`, which is false for names that are too long; raises `OSError` there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_draft(name: str) -> bool:
    """Whether a name is that of a draft of this program; `.draft-thesis.tex` is a file of the user."""
    return name.startswith(OWN) or RUN_DRAFT.fullmatch(name) is not None


@contextmanager
def _draft(path: Path, folder: bool, clean: bool) -> Iterator[tuple[Path, Path]]:
    """An empty, locked draft and the path to publish it at: `path` with symbolic links resolved."""
    target = Path(os.path.realpath(path))
    if not folder and target.is_dir():
        raise R2T2Error(f"cannot write {path}: it is a folder; name a file")
    if target.exists() and not (target.is_dir() if folder else target.is_file()):
        raise R2T2Error(f"cannot write {path}: it exists and is not a {'folder' if folder else 'regular file'}")
    new_folders = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if clean:
            remove_drafts(target.parent, OWN)
        draft, lock = _create_draft(target, folder)
        try:
            yield draft, target
        finally:
            remove(draft)
            os.close(lock)
            if WINDOWS:
                remove(_lock_of(draft))
    except BaseException as error:
        for parent in new_folders:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
            raise OSError(error.errno, reason, os.fspath(path)) from error
        raise


def _create_draft(target: Path, folder: bool) -> tuple[Path, int]:
    """A new draft and the descriptor that holds its lock."""
    name = target.name
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    while True:
        draft = target.with_name(f"{OWN}{secrets.token_hex(4)}-{name}")
        lock = _lock_of(draft)
        if folder:
            draft.mkdir()
        if folder and lock == draft:
            descriptor = os.open(draft, os.O_RDONLY)
        else:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(descriptor)
        if is_at(descriptor, lock):
            if not folder and lock != draft:
                draft.touch()
            return draft, descriptor
        os.close(descriptor)  # another process took the draft for a dead one before it was locked


def _lock_of(draft: Path) -> Path:
    """The file or folder that is locked while a process writes a draft."""
    return draft.with_name(f"{draft.name}{LOCK_FILE}") if WINDOWS else draft


def _lock(descriptor: int) -> bool:
    """Lock a file or folder without waiting. Returns False if another process holds the lock, or locks do not work."""
    try:
        from filelock import lock_descriptor  # the command line imports this module at start

        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return False


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file or folder is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def exchange(draft: Path, target: Path) -> None:
    """Give each of two paths the other's name at once; where the system cannot, rename twice.

    A kill between the two renames leaves the earlier content as a draft, which `remove_drafts` renames back.
    """
    if _exchange_names(draft, target):
        return
    earlier = draft.with_name(f"{draft.name}{EARLIER}")
    lock = _lock_of(earlier) if WINDOWS else target
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT if WINDOWS else os.O_RDONLY)
    try:
        _lock(descriptor)
        os.rename(target, earlier)
        os.rename(draft, target)
        remove(earlier)
    finally:
        os.close(descriptor)
        if WINDOWS:
            remove(lock)


def _exchange_names(first: Path, second: Path) -> bool:
    """Exchange two names by renameat2. Returns False if the system cannot."""
    renameat2 = None if WINDOWS else getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), os.fspath(second))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_drafts(folder: Path, prefix: str = "") -> None:
    """Remove the drafts that killed processes left in a folder. A draft that a process is writing is locked and stays.

    Earlier content that was renamed away, and not replaced, gets its name back.
    """
    for name in sorted(entry.name for entry in os.scandir(folder)):
        if name.startswith(prefix) and is_draft(name):
            remove_if_abandoned(folder / name)


def remove_if_abandoned(draft: Path) -> bool:
    """Remove one draft of a killed process. Returns False if a process is writing it, or it cannot be opened."""
    is_lock = WINDOWS and draft.name.endswith(LOCK_FILE)
    lock = draft if is_lock else _lock_of(draft)
    flags = os.O_RDWR | os.O_CREAT if WINDOWS else os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        descriptor = os.open(lock, flags)
    except OSError:
        return False
    try:
        locked = _lock(descriptor)
        if locked and not is_lock:
            _restore_or_remove(draft)
    finally:
        os.close(descriptor)
    if locked and WINDOWS:
        remove(lock)
    return locked


def _restore_or_remove(draft: Path) -> None:
    renamed = re.fullmatch(rf"{re.escape(OWN)}[0-9a-f]{{8}}-(.+){EARLIER}", draft.name)
    if renamed and not os.path.lexists(target := draft.with_name(renamed[1])):
        os.rename(draft, target)
    else:
        remove(draft)


def sync(path: Path) -> None:
    """Fsync a file, or the entries of a folder."""
    if WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
