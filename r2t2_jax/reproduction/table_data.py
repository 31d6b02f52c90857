"""The measured rows of one table, one model and one setting, as arrays.

Axis letters: B test samples, R rows of a table, L routed layers, E experts, P points of a path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.methods import BASE
from r2t2_jax.reproduction.measure import NOT_RUN
from r2t2_jax.reproduction.paper import average
from r2t2_jax.reproduction.plan import EvalTarget, PlannedRow, TargetPlan
from r2t2_jax.reproduction.spec import Table
from r2t2_jax.runs.batch_files import stack

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("id", "category", "score", "right", "used_fallback", "evaluations")
DETAILED_COLUMNS = ("router_weights", "weights", "step_right", "losses", "own_losses", "similarities")


class MeasuredRows:
    """The stored rows of a run, reduced to the columns that tables read, by target and label."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        """`tables` are the stored rows of all blocks, in order."""
        self._tables: dict[tuple[str, str], list[pa.Table]] = {}
        self._not_run: dict[tuple[str, str], str] = {}
        for table in tables:
            key = table["model"][0].as_py(), table["strategy"][0].as_py()
            if NOT_RUN in table.column_names:
                self._not_run[key] = table[NOT_RUN][0].as_py()
                continue
            names = [name for name in (*COLUMNS, *DETAILED_COLUMNS) if name in table.column_names]
            self._tables.setdefault(key, []).append(table.select(names))

    def not_run(self, target: str, label: str) -> str:
        """The reason why a measurement was not made; empty if it was made."""
        return self._not_run.get((target, label), "")

    def of(self, target: str, label: str, n: int) -> pa.Table:
        """The first n rows of a measurement."""
        from r2t2_jax.runs.batch_files import join

        return join(self._tables[target, label]).slice(0, n)


@dataclass(frozen=True)
class TargetRows:
    """The measured rows of a table on the first questions of one target.

    Args:
        target: model and test set.
        tables: one row per question, by the name of the table's row.
    """

    target: EvalTarget
    tables: Mapping[str, pa.Table]

    @cached_property
    def scores(self) -> Float[np.ndarray, "B R"]:
        """The scores of every row that was run."""
        return np.stack([table["score"].to_numpy() for table in self.tables.values()], axis=1)

    @cached_property
    def families(self) -> list[str]:
        """The family of each question."""
        return self.tables[BASE]["category"].to_pylist()

    def right(self, name: str) -> Bool[np.ndarray, "B"]:
        """True for questions that a row answers correctly."""
        return self.tables[name]["right"].to_numpy()

    def weights(self, name: str) -> tuple[Float[np.ndarray, "B L E"], Float[np.ndarray, "B L E"]]:
        """The router's weights and those of a row, for a detailed table."""
        shape = self.target.port.model.spec.shape
        before, after = (self.column(name, column).reshape(-1, *shape) for column in ("router_weights", "weights"))
        return before, after

    def column(self, name: str, column: str) -> np.ndarray:
        """A column of equally shaped arrays, for a detailed table."""
        return stack(self.tables[name][column])

    def step_right(self, name: str) -> Bool[np.ndarray, "B P"]:
        """Whether the answer at each point of the path is correct, for a row with answers at every step."""
        return self.column(name, "step_right").astype(bool)


@dataclass(frozen=True)
class TableData:
    """One table for one model and one setting.

    Args:
        table: the specification.
        model: name under which the model was loaded.
        setting: own or paper.
        rows: every row, including those that were not run.
        targets: the measured rows on each dataset.
    """

    table: Table
    model: str
    setting: str
    rows: Sequence[PlannedRow]
    targets: Sequence[TargetRows]

    @cached_property
    def names(self) -> list[str]:
        """The names of the rows that were run, in order: the columns of `scores`."""
        return [row.name for row in self.rows if row.label]

    @property
    def scores(self) -> list[Float[np.ndarray, "B R"]]:
        """The scores on each dataset."""
        return [target.scores for target in self.targets]

    @cached_property
    def paper(self) -> dict[str, float]:
        """The paper's averages by row, for the rows that have one."""
        rows = {row.name: self.table.paper_row(row.spec) for row in self.rows}
        return {name: average(row) for name, row in rows.items() if row is not None}

    def right(self, name: str) -> Bool[np.ndarray, "B"]:
        """True for questions that a row answers correctly, over all datasets."""
        return np.concatenate([target.right(name) for target in self.targets])

    @cached_property
    def families(self) -> list[str]:
        """The family of each question, over all datasets."""
        return [family for target in self.targets for family in target.families]

    def first_value(self, name: str, column: str) -> Any:
        """The value of a column for the first question of a row."""
        return self.targets[0].tables[name][column][0].as_py()


def gather_table(
    table: Table,
    setting: str,
    members: Sequence[tuple[EvalTarget, TargetPlan]],
    rows: MeasuredRows,
    samples: int | None,
) -> TableData:
    """Collect the rows of a table.

    Args:
        table: the specification.
        setting: own or paper.
        members: the targets of one model with their plans.
        rows: the stored rows of the run.
        samples: number of questions of each dataset; by default the table's own.

    Returns:
        The planned rows, without a label where a target was not measured, and the measured rows of each dataset.
    """
    planned = members[0][1].rows[table.name, setting]
    planned = [
        _without_missing(row, [rows.not_run(target.name, row.label) for target, _ in members]) for row in planned
    ]
    targets = []
    for target, _ in members:
        n = min(samples or table.samples, len(target.samples))
        tables = {row.name: rows.of(target.name, row.label, n) for row in planned if row.label}
        targets.append(TargetRows(target, tables))
    return TableData(table, members[0][0].model, setting, planned, targets)


def _without_missing(row: PlannedRow, reasons: Sequence[str]) -> PlannedRow:
    """The row, or the row without a label if any target was not measured."""
    reason = next(filter(None, reasons), "")
    return PlannedRow(row.spec, not_run=reason) if reason else row
