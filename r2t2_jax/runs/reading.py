"""What a run left behind: `open_run("out/demo")` gives its settings, its rows, its references and its summary.

saved = open_run("out/demo")
saved.settings["seed"]                       # what was asked for
saved.rows.filter(pc.field("strategy") == "ngd").to_pylist()
saved.summary["gates"]["narrow"]["strategies"]["ngd"]["accuracy"]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2t2_jax.errors import R2T2Error

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SavedRun:
    """A run's folder, read when asked.

    Args:
        folder: where it is.
        run: `run.json` whole: command, settings, data, versions, models.
    """

    folder: Path
    run: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the command was given."""
        return self.run["settings"]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The numbers of `summary.json`.

        Raises:
            R2T2Error: the run is not complete.
        """
        return _read_json(self.folder / "summary.json", "the run is not complete; the command that began it resumes it")

    @cached_property
    def rows(self) -> pa.Table:
        """One row for each model, strategy and sample, in this order."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "rows.parquet")

    @cached_property
    def references(self) -> pa.Table | None:
        """One row for each model and reference it keeps: model, id, question, answer, category, routing."""
        import pyarrow.parquet as pq

        path = self.folder / "references.parquet"
        return pq.read_table(path) if path.exists() else None


def open_run(folder: Path | str) -> SavedRun:
    """The run in `folder`.

    Raises:
        R2T2Error: there is none.
    """
    folder = Path(folder)
    return SavedRun(folder, _read_json(folder / "run.json", f"{folder} holds no run; give the folder of one"))


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise R2T2Error(f"cannot read {path} ({error}): {otherwise}") from error
