"""The folder a run leaves: `run.json`, `rows.parquet`, `summary.json`. It appears whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error

FILES = ("run.json", "rows.parquet", "summary.json")


def check_folder(out: Path) -> None:
    """Refuse, before any work is done, a folder that could not be written at its end.

    Raises:
        R2T2Error: it cannot be made, or holds anything but an earlier run.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in FILES)
            if foreign:
                raise R2T2Error(f"{out} holds {foreign[0]!r}, which is no part of a run; choose another folder")
        Path(tempfile.mkdtemp(dir=out.parent)).rmdir()
    except OSError as error:
        raise R2T2Error(f"cannot write {out}: {error.strerror}") from error


def write_folder(out: Path, run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], summary: Any) -> None:
    """Write the files to a sibling, make them durable, and put it in place of an earlier run.

    Args:
        out: the run's folder.
        run: settings, versions, timings.
        rows: one record for each sample and strategy.
        summary: the numbers; without times or host names, so that equal runs give equal bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        draft.chmod(0o755)  # mkdtemp keeps it private
        _write_json(draft / "run.json", run)
        pq.write_table(pa.Table.from_pylist(list(rows)), draft / "rows.parquet")
        _write_json(draft / "summary.json", summary)
        for path in (*(draft / name for name in FILES), draft):
            _sync(path)
        earlier = draft.with_name(f"{draft.name}-earlier")
        if out.exists():
            out.rename(earlier)
        draft.rename(out)
        _sync(out.parent)
        shutil.rmtree(earlier, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def versions() -> dict[str, str]:
    """What a result may depend on beside its settings."""
    import jax

    found = {name: version(name) for name in ("r2t2-jax", "jax", "jaxlib", "numpy")}
    return {"python": platform.python_version(), **found, "device": jax.devices()[0].device_kind}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
