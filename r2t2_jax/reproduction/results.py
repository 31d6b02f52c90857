"""Computes a finished table as numbers for JSON.

Axis letters: B test samples, R rows of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from r2t2_jax.evaluation.statistics import DIGITS, compare, summarize, wilson_interval
from r2t2_jax.methods import BASE, untouched
from r2t2_jax.reproduction.kinds import KINDS
from r2t2_jax.reproduction.paper import average
from r2t2_jax.reproduction.plan import EvalTarget, PlannedRow, TargetPlan
from r2t2_jax.reproduction.spec import Table
from r2t2_jax.reproduction.table_data import MeasuredRows, TableData, gather_table
from r2t2_jax.reproduction.trend import LEVEL, averages, resampled_averages, trend


def table_result(
    table: Table,
    targets: Sequence[EvalTarget],
    plans: Sequence[TargetPlan],
    rows: MeasuredRows,
    samples: int | None,
) -> dict[str, Any]:
    """The numbers of a table for each model and setting.

    Args:
        table: the specification.
        targets, plans: the targets and their plans, in the same order. The datasets of one model are averaged.
        rows: the stored rows of the run.
        samples: number of questions of each dataset; by default the table's own.
    """
    models: dict[str, Any] = {}
    for name in dict.fromkeys(target.port.name for target in targets):
        members = [pair for pair in zip(targets, plans, strict=True) if pair[0].port.name == name]
        settings = [setting for key, setting in members[0][1].rows if key == table.name]
        if settings:  # else the table has no rows for this variant of the model
            models[name] = {
                setting: part_result(gather_table(table, setting, members, rows, samples)) for setting in settings
            }
    return {
        "table": table.name,
        "shows": list(table.shows),
        "title": table.title,
        "question": table.question,
        "kind": table.kind,
        "paper": {name: {**row, "average": round(average(row), 2)} for name, row in table.paper_rows.items()},
        "models": models,
    }


def summarize_target(plan: TargetPlan, rows: MeasuredRows) -> dict[str, Any]:
    """The summary of a target's detailed rows that the report reads."""
    tables = {each.label: rows.of(plan.target, each.label, each.samples) for each in plan.detailed}
    right = {label: table["right"].to_numpy() for label, table in tables.items()}
    evaluations = {label: table["evaluations"][0].as_py() for label, table in tables.items()}
    return summarize(right, evaluations, tables[BASE]["category"].to_pylist())


def part_result(data: TableData) -> dict[str, Any]:
    """A table for one model under one setting.

    Returns:
        `n`, `rows`, `trend`, and what the kind of the table adds: `columns`, `tables`, `notes` and `numbers`.
    """
    return {
        "n": sum(len(score) for score in data.scores),
        "rows": [_row_result(data, row) for row in data.rows],
        "trend": trend(data.names, data.paper, data.scores),
        **KINDS[data.table.kind](data),
    }


def _row_result(data: TableData, row: PlannedRow) -> dict[str, Any]:
    name = row.name
    if row.not_run:
        paper = data.table.paper_row(row.spec)
        return {"name": name, **({} if paper is None else {"paper": round(average(paper), 2)}), "not_run": row.not_run}
    compared = untouched(row.spec.strategy, data.names)
    index, base = data.names.index(name), data.names.index(compared)
    before, after = data.right(compared), data.right(name)
    return {
        "name": name,
        **({"paper": round(data.paper[name], 2)} if name in data.paper else {}),
        "accuracy": round(float(averages(data.scores)[index]), DIGITS),
        "ci95": _interval(data.scores, index),
        "gain": _gain(data.scores, base, index),
        "wrong_to_right": int((~before & after).sum()),
        "right_to_wrong": int((before & ~after).sum()),
        "evaluations_per_sample": data.first_value(name, "evaluations"),
        "used_fallback": sum(int(target.tables[name]["used_fallback"].to_numpy().sum()) for target in data.targets),
    }


def _is_binary(scores: Sequence[Float[np.ndarray, "B R"]]) -> bool:
    return len(scores) == 1 and bool(np.isin(scores[0], (0.0, 1.0)).all())


def _interval(scores: Sequence[Float[np.ndarray, "B R"]], index: int) -> list[float]:
    """Wilson's 95 % interval for binary scores of one dataset, otherwise a bootstrap within each dataset."""
    if _is_binary(scores):
        column = scores[0][:, index]
        bounds: Sequence[float] = wilson_interval(int(column.sum()), len(column))
    else:
        resampled = resampled_averages([score[:, [index]] for score in scores])
        bounds = np.quantile(resampled, [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    return [round(float(bound), DIGITS) for bound in bounds]


def _gain(scores: Sequence[Float[np.ndarray, "B R"]], before: int, after: int) -> dict[str, Any]:
    """The gain in points on the same samples, with a 95 % interval."""
    bounds: Sequence[float]
    if _is_binary(scores):
        difference = compare(scores[0][:, before] == 1, scores[0][:, after] == 1)
        gain, bounds = difference.gain, (difference.low, difference.high)
    else:
        differences = [score[:, [after]] - score[:, [before]] for score in scores]
        gain = float(averages(differences)[0])
        bounds = np.quantile(resampled_averages(differences), [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    return {"points": round(100 * gain, 2), "ci95": [round(100 * bound, 2) for bound in bounds]}
