"""A run's folder: what it is called in it, and which folders a run refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs import lock
from r2t2_jax.runs.files import DRAFT

RUN, SUMMARY = "run.json", "summary.json"


def check_folder(out: Path) -> None:
    """Refuse, before any work is done, a folder that holds anything but a run.

    Raises:
        R2T2Error: it does.
        OSError: it, or the folder above it, cannot be made or read.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists() or (out / RUN).exists():
        return
    foreign = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith((DRAFT, lock.NAME)))
    if foreign:
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
