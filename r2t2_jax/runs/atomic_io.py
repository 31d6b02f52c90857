"""Atomic writes of files and folders: write to a temporary sibling, fsync, rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DRAFT = ".draft-"


def atomic_write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file or a folder, replacing an earlier one; readers see the old content or the new, never a part.

    Args:
        path: the file or folder.
        write: called with the temporary path to write to.
    """
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{path.name}")
    earlier = draft.with_name(f"{draft.name}-earlier")
    try:
        write(draft)
        for part in (*draft.rglob("*"), draft) if draft.is_dir() else (draft,):
            sync(part)
        if path.is_dir():  # a folder with content cannot be renamed over
            path.rename(earlier)
        draft.rename(path)
        sync(path.parent)
    finally:
        remove(draft)
        remove(earlier)


def publish_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; raises `ValueError` on NaN and infinity."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    atomic_write(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_drafts(folder: Path) -> None:
    """Remove the temporary files that a killed process left."""
    for draft in folder.glob(f"{DRAFT}*"):
        remove(draft)


def sync(path: Path) -> None:
    """Fsync a file, or the entries of a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
