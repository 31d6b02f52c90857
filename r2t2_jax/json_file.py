"""A JSON file that appears whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error


def check_writable(path: Path) -> None:
    """Refuse, before any work is done, a file that could not be written at its end.

    Raises:
        R2T2Error: its folder cannot be made or written, or it is a folder itself.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise R2T2Error(f"cannot write {path}: it is a folder; name a file")
        descriptor, draft = tempfile.mkstemp(dir=path.parent)
        os.close(descriptor)
        Path(draft).unlink()
    except OSError as error:
        raise R2T2Error(f"cannot write {path}: {error.strerror}") from error


def write_json(path: Path, content: Any) -> None:
    """Write to a sibling, make it durable, and put it in place."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)  # mkstemp keeps it private
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
