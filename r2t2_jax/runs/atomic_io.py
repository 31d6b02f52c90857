"""Files and folders that appear whole or not at all: written to a temporary sibling, made durable, renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DRAFT = ".draft-"


def atomic_write(path: Path, write: Callable[[Path], Any]) -> None:
    """Put a file or a folder in place, instead of an earlier one.

    Args:
        path: where it shall be.
        write: writes it to the path it is given.
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
    """Put a JSON file in place; NaN and infinity are refused with a `ValueError`."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    atomic_write(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_drafts(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for draft in folder.glob(f"{DRAFT}*"):
        remove(draft)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
