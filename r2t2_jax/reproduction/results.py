"""A finished table as numbers, ready for JSON.

Axis letters: B samples of a test set, R rows of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from r2t2_jax.evaluation.statistics import DIGITS, compare, summarize, wilson_interval
from r2t2_jax.reproduction.kinds import KINDS
from r2t2_jax.reproduction.paper import average
from r2t2_jax.reproduction.plan import Cell, EvalTarget, SubjectPlan
from r2t2_jax.reproduction.spec import BASE, Table
from r2t2_jax.reproduction.table_data import Rows, TableData, find
from r2t2_jax.reproduction.trend import LEVEL, averages, drawn_averages, trend


def table_result(
    table: Table, subjects: Sequence[EvalTarget], plans: Sequence[SubjectPlan], rows: Rows, samples: int | None
) -> dict[str, Any]:
    """Numbers of a table, for each model and setting.

    Args:
        table: which.
        subjects, plans: whose; the sets of one model are one column of averages.
        rows: of the run.
        samples: how many questions of each set were asked; by default the table's own number.
    """
    models: dict[str, Any] = {}
    for name in dict.fromkeys(subject.port.name for subject in subjects):
        members = [pair for pair in zip(subjects, plans, strict=True) if pair[0].port.name == name]
        settings = [setting for key, setting in members[0][1].cells if key == table.name]
        models[name] = {setting: part_of(find(table, setting, members, rows, samples)) for setting in settings}
    return {
        "table": table.name,
        "shows": list(table.shows),
        "title": table.title,
        "question": table.question,
        "kind": table.kind,
        "paper": {name: {**row, "average": round(average(row), 2)} for name, row in table.paper_rows.items()},
        "models": models,
    }


def summary_of(plan: SubjectPlan, rows: Rows) -> dict[str, Any]:
    """What the report reads of a subject's detailed rows."""
    found = {one.label: rows.of(plan.subject, one.label, one.cases) for one in plan.detailed}
    right = {label: table["right"].to_numpy() for label, table in found.items()}
    evaluations = {label: table["evaluations"][0].as_py() for label, table in found.items()}
    return summarize(right, evaluations, found[BASE]["category"].to_pylist())


def part_of(found: TableData) -> dict[str, Any]:
    """A table for one model under one setting.

    Returns:
        `n`, `rows`, `trend`, and what its kind adds: `columns` of the rows, further `tables`, and `notes`.
    """
    return {
        "n": sum(len(score) for score in found.scores),
        "rows": [_row(found, cell) for cell in found.cells],
        "trend": trend(found.names, found.paper, found.scores),
        **KINDS[found.table.kind](found),
    }


def _row(found: TableData, cell: Cell) -> dict[str, Any]:
    name = cell.trial.name
    if cell.not_run:
        row = found.table.paper_row(cell.trial)
        return {"name": name, **({} if row is None else {"paper": round(average(row), 2)}), "not_run": cell.not_run}
    place, base = found.names.index(name), found.names.index(BASE)
    before, after = found.right(BASE), found.right(name)
    return {
        "name": name,
        **({"paper": round(found.paper[name], 2)} if name in found.paper else {}),
        "accuracy": round(float(averages(found.scores)[place]), DIGITS),
        "ci95": _interval(found.scores, place),
        "gain": _gain(found.scores, base, place),
        "wrong_to_right": int((~before & after).sum()),
        "right_to_wrong": int((before & ~after).sum()),
        "evaluations_per_sample": found.first(name, "evaluations"),
        "used_fallback": sum(int(one.tables[name]["used_fallback"].to_numpy().sum()) for one in found.asked),
    }


def _binary(scores: Sequence[Float[np.ndarray, "B R"]]) -> bool:
    return len(scores) == 1 and bool(np.isin(scores[0], (0.0, 1.0)).all())


def _interval(scores: Sequence[Float[np.ndarray, "B R"]], place: int) -> list[float]:
    """Wilson's for right answers to one set, else a bootstrap over the samples of each set."""
    if _binary(scores):
        column = scores[0][:, place]
        bounds: Sequence[float] = wilson_interval(int(column.sum()), len(column))
    else:
        bounds = np.quantile(drawn_averages([one[:, [place]] for one in scores]), [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    return [round(float(bound), DIGITS) for bound in bounds]


def _gain(scores: Sequence[Float[np.ndarray, "B R"]], before: int, after: int) -> dict[str, Any]:
    """Points gained on the same samples, with a 95 % interval."""
    bounds: Sequence[float]
    if _binary(scores):
        found = compare(scores[0][:, before] == 1, scores[0][:, after] == 1)
        gain, bounds = found.gain, (found.low, found.high)
    else:
        differences = [one[:, [after]] - one[:, [before]] for one in scores]
        gain = float(averages(differences)[0])
        bounds = np.quantile(drawn_averages(differences), [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    return {"points": round(100 * gain, 2), "ci95": [round(100 * bound, 2) for bound in bounds]}
