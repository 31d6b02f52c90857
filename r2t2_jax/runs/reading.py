"""Reads a saved run, complete or not: settings, rows, references and summary.

```python
saved = open_run("out/demo")
saved.settings["seed"]  # the command's options
saved.rows.filter(pc.field("strategy") == "ngd").to_pylist()
saved.summary["models"]["narrow"]["strategies"]["ngd"]["accuracy"]
```
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.batch_files import join, read_batches, row_count, saved_batches
from r2t2_jax.runs.fingerprint import current_settings
from r2t2_jax.runs.folder import RUN, SUMMARY, check_format, read_json, resume_command, seconds_per_sample
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runtime.typed_json import open_json

if TYPE_CHECKING:
    import pyarrow as pa


BANK_BUILD = "bank build"  # its rows become the files of the bank


@dataclass(frozen=True)
class SavedRun:
    """A run's folder, read on demand. Reading takes no lock and changes nothing, so the run may continue meanwhile.

    Args:
        folder: the run's folder.
        run: all of `run.json`: command, settings, other dependencies of the results, plan.
    """

    folder: Path
    run: dict[str, Any]
    _row_counts: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)  # by batch read

    @property
    def settings(self) -> dict[str, Any]:
        """The options of the command, under the names that they have now."""
        return current_settings(self.run["command"], self.run["settings"])

    @property
    def complete(self) -> bool:
        """Whether the summary has been written."""
        return (self.folder / SUMMARY).exists()

    @property
    def incomplete(self) -> str:
        """The message about a run without a summary, with the command that resumes it."""
        command = resume_command(self.run["command"], self.folder)
        return f"the run in {self.folder} is not complete. Resume with: {command}"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The numbers of `summary.json`.

        Raises:
            R2T2Error: the run is not complete, or files of it are missing or damaged.
        """
        if not self.complete:
            raise R2T2Error(self.incomplete)
        self._check_files  # noqa: B018  # raises
        return read_json(self.folder / SUMMARY)

    @cached_property
    def rows(self) -> pa.Table:
        """The rows computed so far, ordered by model, strategy and sample."""
        return self.table("rows")

    @cached_property
    def references(self) -> pa.Table:
        """One row per model and reference: model, id, question, answer, category, routing, score."""
        return self.table("references")

    def table(self, name: str) -> pa.Table:
        """One of the plan's tables, in the order of the plan."""
        return self._read(self._plan.of_table(name))

    def rows_of(self, part: str) -> pa.Table:
        """The rows of one part of the plan."""
        return self._read([part])

    @cached_property
    def _plan(self) -> Plan:
        try:
            return Plan.from_json(self.run["plan"])
        except (TypeError, AttributeError, KeyError) as error:
            raise R2T2Error(f"{self.folder / RUN} is damaged: its plan is not a list of parts ({error})") from error

    @cached_property
    def _check_files(self) -> None:
        """Compare the files of a complete run with its plan, once; a run that goes on may have any part of its batches.

        Raises:
            R2T2Error: batches are missing, or an exported table lacks rows.
        """
        saved, batches = saved_batches(self.folder), self._plan.batches
        missing = [batch.number for batch in batches if batch.number not in saved]
        command = f"repeat the command that began it ({self.run['command']} ... --out {self.folder})"
        if missing and self.run["command"] == BANK_BUILD:
            raise R2T2Error(f"{self.folder} holds a bank, not a run with rows: see r2t2 bank inspect {self.folder}")
        if missing:
            raise R2T2Error(
                f"{self.folder} is damaged: {len(missing)} of {len(batches)} batches are missing, the first is "
                f"{missing[0]}; {command} to compute them again"
            )
        for table in dict.fromkeys(part.table for part in self._plan.parts):
            exported = self.folder / f"{table}.parquet"
            if exported.exists():
                parts = self._plan.of_table(table)
                numbers = [batch.number for batch in batches if batch.part in parts]
                rows = sum(self._row_counts.get(number) or row_count(saved[number]) for number in numbers)
                if row_count(exported) != rows:
                    raise R2T2Error(f"{exported} does not have the {rows} rows of the run; delete it, and {command}")

    def _read(self, parts: list[str]) -> pa.Table:
        batches = read_batches(saved_batches(self.folder), self._plan, parts)
        if self.complete:
            self._row_counts.update({number: batch.num_rows for number, batch in batches.items()})
            self._check_files  # noqa: B018  # raises
        return join(list(batches.values()))

    @cached_property
    def seconds_per_sample(self) -> dict[str, float]:
        """Measured seconds per sample, by part."""
        return seconds_per_sample(self.folder)


def open_run(folder: Path | str) -> SavedRun:
    """The run in `folder`.

    Raises:
        R2T2Error: the folder holds no run, or one in the former format.
    """
    folder = Path(folder)
    check_format(folder)
    if not (folder / RUN).exists():
        raise R2T2Error(f"{folder} holds no run (it has no {RUN}); give the folder of a run")
    run = read_json(folder / RUN)
    if missing := [key for key in ("command", "settings", "plan") if key not in run]:
        raise R2T2Error(f"{folder / RUN} lacks {', '.join(missing)}; it is not the {RUN} of a run")
    others = set(run) - {entry.name for entry in fields(_Content)}
    open_json(folder / RUN, f"it is not the {RUN} of a run").as_type(_Content, leave_out=others)
    return SavedRun(folder, run)


@dataclass(frozen=True)
class _Content:
    """The fields of `run.json` that readers of runs rely on; commands add others."""

    command: str
    settings: dict[str, Any]
    plan: list[Part]
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | list[Any] | str | None = None


@contextmanager
def refuse_damaged(folder: Path) -> Iterator[None]:
    """Raise an `R2T2Error` that names the run where its rows or its numbers do not have the shape of a run's."""
    try:
        yield
    except R2T2Error:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:200]
        cause = f"its rows or numbers cannot be those of a run: {type(error).__name__} {reason}"
        raise R2T2Error(f"{folder} is damaged ({cause}); run it again in another folder") from error
