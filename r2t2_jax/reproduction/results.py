"""A finished table as numbers, from the rows of its run alone.

Axis letters: B samples of a test set, R rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.evaluation.comparison import compare
from r2t2_jax.evaluation.summary import DIGITS, wilson_interval
from r2t2_jax.reproduction.paper import average
from r2t2_jax.reproduction.plan import BASE, Cell, SubjectPlan
from r2t2_jax.reproduction.subjects import Subject
from r2t2_jax.reproduction.tables import Table
from r2t2_jax.reproduction.trend import LEVEL, averages, drawn_averages, trend

if TYPE_CHECKING:
    import pyarrow as pa

READ = ("id", "category", "score", "right", "fell_back", "evaluations")
RowsOf = Callable[[str, str], "pa.Table"]  # the rows of a subject's label


def table_result(
    table: Table, subjects: Sequence[Subject], plans: Sequence[SubjectPlan], rows_of: RowsOf, samples: int | None
) -> dict[str, Any]:
    """Numbers of a table, for each model and setting, ready for JSON.

    Args:
        table: which.
        subjects, plans: whose; the sets of one model are one column of averages.
        rows_of: the rows of a subject and a label, in the order of the questions.
        samples: how many questions of each set were asked; by default the table's own number.
    """
    models: dict[str, Any] = {}
    for name in dict.fromkeys(subject.port.name for subject in subjects):
        mine = [(subject, plan) for subject, plan in zip(subjects, plans, strict=True) if subject.port.name == name]
        settings = [setting for key, setting in mine[0][1].cells if key == table.name]
        models[name] = {setting: _under(table, setting, mine, rows_of, samples) for setting in settings}
    return {
        "table": table.name,
        "shows": list(table.shows),
        "title": table.title,
        "question": table.question,
        "kind": table.kind,
        "paper": {name: {**row, "average": round(average(row), 2)} for name, row in table.paper_rows.items()},
        "models": models,
    }


def rows_by_label(tables: Iterable[pa.Table]) -> RowsOf:
    """The columns on which results rest, found by subject and label.

    Args:
        tables: rows of all blocks, in order.
    """
    import pyarrow as pa

    found: dict[tuple[str, str], list[pa.Table]] = {}
    for table in tables:
        key = table["model"][0].as_py(), table["strategy"][0].as_py()
        found.setdefault(key, []).append(table.select(list(READ)))
    joined = {key: pa.concat_tables(parts) for key, parts in found.items()}
    return lambda subject, label: joined[subject, label]


def _under(
    table: Table,
    setting: str,
    mine: Sequence[tuple[Subject, SubjectPlan]],
    rows_of: RowsOf,
    samples: int | None,
) -> dict[str, Any]:
    """A table for one model under one setting."""
    cells = mine[0][1].cells[table.name, setting]
    ran = [cell for cell in cells if cell.label]
    found = [
        _measured(subject, ran, rows_of, min(samples or table.samples, len(subject.samples))) for subject, _ in mine
    ]
    paper = {cell.trial.name: average(table.paper_rows[cell.trial.paper]) for cell in ran if cell.trial.paper}
    scores = [one["scores"] for one in found]
    rows = [_row(cell, ran, mine, found, paper) for cell in cells]
    return {
        "n": sum(len(score) for score in scores),
        "rows": rows,
        "trend": trend([cell.trial.name for cell in ran], paper, scores),
    }


def _measured(subject: Subject, cells: Sequence[Cell], rows_of: RowsOf, n: int) -> dict[str, Any]:
    """What the rows of a table did to the first n questions of a subject."""
    tables = [rows_of(subject.name, cell.label).slice(0, n) for cell in cells]
    return {
        "scores": np.stack([table["score"].to_numpy() for table in tables], axis=1),  # [B, R]
        "right": np.stack([table["right"].to_numpy() for table in tables], axis=1),
        "evaluations": [table["evaluations"][0].as_py() for table in tables],
        "fell_back": [int(np.sum(table["fell_back"].to_numpy())) for table in tables],
        "families": tables[0]["category"].to_pylist(),
    }


def _row(
    cell: Cell,
    ran: Sequence[Cell],
    mine: Sequence[tuple[Subject, SubjectPlan]],
    found: Sequence[Mapping[str, Any]],
    paper: Mapping[str, float],
) -> dict[str, Any]:
    name = cell.trial.name
    printed = {"paper": round(paper[name], 2)} if name in paper else {}
    if cell.not_run:
        return {"name": name, "not_run": cell.not_run}
    place, base = ran.index(cell), [one.trial.name for one in ran].index(BASE)
    scores, right = [one["scores"] for one in found], [one["right"] for one in found]
    before, after = (np.concatenate([one[:, i] for one in right]) for i in (base, place))
    return {
        "name": name,
        **printed,
        "accuracy": round(float(averages(scores)[place]), DIGITS),
        "ci95": _interval(scores, place),
        "gain": _gain(scores, base, place),
        "wrong_to_right": int((~before & after).sum()),
        "right_to_wrong": int((before & ~after).sum()),
        "evaluations_per_case": found[0]["evaluations"][place],
        "fell_back": sum(one["fell_back"][place] for one in found),
        "sets": {
            subject.data: round(float(one["scores"][:, place].mean()), DIGITS)
            for (subject, _), one in zip(mine, found, strict=True)
        },
        "families": _families(found, place),
    }


def _families(found: Sequence[Mapping[str, Any]], place: int) -> dict[str, Any]:
    """Accuracy by family, where one set is asked; several sets stand for themselves."""
    if len(found) > 1:
        return {}
    families, scores = np.array(found[0]["families"]), found[0]["scores"][:, place]
    return {str(name): round(float(scores[families == name].mean()), DIGITS) for name in np.unique(families)}


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
    if _binary(scores):
        first, then = (scores[0][:, i] == 1 for i in (before, after))
        found = compare(_flags(first), _flags(then))
        gain, bounds = found.gain, (found.low, found.high)
    else:
        differences = [one[:, [after]] - one[:, [before]] for one in scores]
        gain = float(averages(differences)[0])
        bounds = tuple(np.quantile(drawn_averages(differences), [LEVEL / 2, 1 - LEVEL / 2]).tolist())
    return {"points": round(100 * gain, 2), "ci95": [round(100 * bound, 2) for bound in bounds]}


def _flags(values: np.ndarray) -> Bool[np.ndarray, "B"]:
    return np.asarray(values, bool)
