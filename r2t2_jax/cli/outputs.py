"""Files that a command is asked to write: refused before any work is done, not after it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from r2t2_jax.errors import R2T2Error


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written at the end.

    Raises:
        R2T2Error: its folder cannot be made or written, or it is a folder itself.
    """
    if path.is_dir():
        raise R2T2Error(f"cannot write {path}: it is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent)
        os.close(descriptor)
        Path(draft).unlink()
    except OSError as error:
        raise R2T2Error(f"cannot write {path}: {error.strerror}") from error
