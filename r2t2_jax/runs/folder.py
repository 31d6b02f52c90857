"""A run's folder: what it is called in it, and which folders a run refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs import lock
from r2t2_jax.runs.files import DRAFT
from r2t2_jax.runs.team import PREFIX

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
    foreign = [name for name in names if not name.startswith((DRAFT, lock.NAME, PREFIX))]
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
