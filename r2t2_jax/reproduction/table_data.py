"""What was found for one table, one model and one setting, as arrays.

Axis letters: B test samples, R rows of a table, L routed layers, E experts, P points of a path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.reproduction.measure import NOT_RUN
from r2t2_jax.reproduction.paper import average
from r2t2_jax.reproduction.plan import Cell, EvalTarget, SubjectPlan
from r2t2_jax.reproduction.spec import BASE, Table
from r2t2_jax.runs.batch_files import stack

if TYPE_CHECKING:
    import pyarrow as pa

READ = ("id", "category", "score", "right", "used_fallback", "evaluations")
READ_DETAILED = ("router_weights", "weights", "step_right", "losses", "own_losses", "similarities")


class Rows:
    """The columns of a run on which results rest, found by subject and label."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        """`tables` are the rows of all blocks, in order."""
        self._found: dict[tuple[str, str], list[pa.Table]] = {}
        self._not_run: dict[tuple[str, str], str] = {}
        for table in tables:
            key = table["model"][0].as_py(), table["strategy"][0].as_py()
            if NOT_RUN in table.column_names:
                self._not_run[key] = table[NOT_RUN][0].as_py()
                continue
            names = [name for name in (*READ, *READ_DETAILED) if name in table.column_names]
            self._found.setdefault(key, []).append(table.select(names))

    def not_run(self, subject: str, label: str) -> str:
        """Why a measurement could not be made; empty if it was."""
        return self._not_run.get((subject, label), "")

    def of(self, subject: str, label: str, n: int) -> pa.Table:
        """A measurement's first n rows."""
        from r2t2_jax.runs.batch_files import join

        return join(self._found[subject, label]).slice(0, n)


@dataclass(frozen=True)
class Asked:
    """What the rows of a table did to the first questions of one subject."""

    subject: EvalTarget
    tables: Mapping[str, pa.Table]  # by the row's name

    @cached_property
    def scores(self) -> Float[np.ndarray, "B R"]:
        """Scores of every row that ran."""
        return np.stack([table["score"].to_numpy() for table in self.tables.values()], axis=1)

    @cached_property
    def families(self) -> list[str]:
        """Of the questions."""
        return self.tables[BASE]["category"].to_pylist()

    def right(self, name: str) -> Bool[np.ndarray, "B"]:
        """Which questions a row answers correctly."""
        return self.tables[name]["right"].to_numpy()

    def weights(self, name: str) -> tuple[Float[np.ndarray, "B L E"], Float[np.ndarray, "B L E"]]:
        """The router's weights and a row's, of a table that is detailed."""
        shape = self.subject.port.model.spec.shape
        before, after = (self.column(name, column).reshape(-1, *shape) for column in ("router_weights", "weights"))
        return before, after

    def column(self, name: str, column: str) -> np.ndarray:
        """A column of arrays of one shape, of a table that is detailed."""
        return stack(self.tables[name][column])

    def step_right(self, name: str) -> Bool[np.ndarray, "B P"]:
        """Whether the answer at each point of the path is right, of a row whose steps were answered."""
        return self.column(name, "step_right").astype(bool)


@dataclass(frozen=True)
class TableData:
    """One table, one model, one setting.

    Args:
        table: which.
        model: as the user called it, for its shapes.
        setting: own or paper.
        cells: every row, those which were not run too.
        asked: the sets that the model was asked.
    """

    table: Table
    model: str
    setting: str
    cells: Sequence[Cell]
    asked: Sequence[Asked]

    @cached_property
    def names(self) -> list[str]:
        """Of the rows that ran, in order: the columns of `scores`."""
        return [cell.trial.name for cell in self.cells if cell.label]

    @property
    def scores(self) -> list[Float[np.ndarray, "B R"]]:
        """Of each set."""
        return [one.scores for one in self.asked]

    @cached_property
    def paper(self) -> dict[str, float]:
        """The paper's averages by row, as far as it has them."""
        rows = {cell.trial.name: self.table.paper_row(cell.trial) for cell in self.cells}
        return {name: average(row) for name, row in rows.items() if row is not None}

    def right(self, name: str) -> Bool[np.ndarray, "B"]:
        """Which questions a row answers correctly, the sets one after another."""
        return np.concatenate([one.right(name) for one in self.asked])

    def first(self, name: str, column: str) -> Any:
        """A column's value in the row's first question."""
        return self.asked[0].tables[name][column][0].as_py()


def find(
    table: Table,
    setting: str,
    members: Sequence[tuple[EvalTarget, SubjectPlan]],
    rows: Rows,
    samples: int | None,
) -> TableData:
    """Gather a table's rows.

    Args:
        table: which.
        setting: own or paper.
        members: one model's subjects and their plans.
        rows: of the run.
        samples: how many questions of each set were asked; by default the table's own number.
    """
    planned = members[0][1].cells[table.name, setting]
    cells = [_as_it_went(cell, [rows.not_run(subject.name, cell.label) for subject, _ in members]) for cell in planned]
    asked = []
    for subject, _ in members:
        n = min(samples or table.samples, len(subject.samples))
        tables = {cell.trial.name: rows.of(subject.name, cell.label, n) for cell in cells if cell.label}
        asked.append(Asked(subject, tables))
    return TableData(table, members[0][0].model, setting, cells, asked)


def _as_it_went(cell: Cell, reasons: Sequence[str]) -> Cell:
    """A cell without numbers where any subject could not be measured."""
    reason = next(filter(None, reasons), "")
    return Cell(cell.trial, not_run=reason) if reason else cell
