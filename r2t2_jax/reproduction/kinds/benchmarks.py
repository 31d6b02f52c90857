"""Every row by benchmark, or by family where one set is asked."""

from __future__ import annotations

from typing import Any

import numpy as np

from r2t2_jax.reproduction.paper import COLUMN_OF, paper_rows
from r2t2_jax.reproduction.spec import BASE
from r2t2_jax.reproduction.table_data import Asked, TableData

PERCENT = 100


def benchmarks(found: TableData) -> dict[str, Any]:
    """A column for each test set with the paper's number beside ours; for a single set, a column for each family."""
    if len(found.asked) == 1:
        return _families(found.asked[0], found)
    head = ["", *(COLUMN_OF.get(one.subject.data, one.subject.data) for one in found.asked)]
    numbers = {name: {one.subject.data: set_score(one, name) for one in found.asked} for name in found.names}
    paper = {cell.trial.name: found.table.paper_row(cell.trial) or {} for cell in found.cells}
    rows = [
        [name, *(_beside(score, paper[name].get(COLUMN_OF.get(data, ""))) for data, score in scores.items())]
        for name, scores in numbers.items()
    ]
    title = "By benchmark, its own score: here (paper)"
    return {"tables": [{"title": title, "head": head, "rows": rows}], "numbers": {"benchmarks": numbers}}


def set_score(asked: Asked, name: str) -> float:
    """The benchmark's own number, as MME's points or MMBench's circular accuracy; the mean score where it has none."""
    from r2t2_jax.datasets.catalog import DATASETS
    from r2t2_jax.metrics import get_set_score

    scores = asked.tables[name]["score"].to_pylist()
    data = asked.subject.data
    score = get_set_score(DATASETS[data].set_score if data in DATASETS else "accuracy")
    return round(next(iter(score(scores, asked.subject.samples[: len(scores)]).values())), 2)


def _beside(ours: float, paper: float | None) -> str:
    return f"{ours:.1f}" + ("" if paper is None else f" ({paper:.1f})")


def _families(asked: Asked, found: TableData) -> dict[str, Any]:
    families = np.array(asked.families)
    names = np.unique(families).tolist()
    if len(names) < 2:
        return {}
    numbers = {
        name: {family: round(float(asked.right(name)[families == family].mean()), 4) for family in names}
        for name in found.names
    }
    head = ["", *(f"{family} (n = {int((families == family).sum())})" for family in names)]
    rows = [[name, *(f"{PERCENT * share:.1f}" for share in shares.values())] for name, shares in numbers.items()]
    harmed = [
        f"{family} ({PERCENT * (numbers[name][family] - numbers[BASE][family]):+.1f})".replace("-", "−")
        for name in found.names
        if name == "ngd"
        for family in names
        if numbers[name][family] < numbers[BASE][family]
    ]
    notes = [f"Descent loses against the untouched model on: {', '.join(harmed)} points."] if harmed else []
    title = "Right answers by family of questions, %"
    return {
        "tables": [{"title": title, "head": head, "rows": rows}],
        "numbers": {"families": numbers},
        "notes": notes,
    }


OTHERS, METHODS = "table3_other_models", "table2"


def placing(found: TableData) -> dict[str, Any]:
    """The paper's rows with ours among them, and our place on every benchmark that both were asked."""
    columns = list(COLUMN_OF.values())
    others = paper_rows(OTHERS) | {f"{name} (paper)": row for name, row in paper_rows(METHODS).items()}
    ours = {
        f"{found.asked[0].subject.port.name} {name} (here)": {
            COLUMN_OF[one.subject.data]: set_score(one, name) for one in found.asked if one.subject.data in COLUMN_OF
        }
        for name in found.names
    }
    rows = [[name, *(_number(row.get(column)) for column in columns)] for name, row in (others | ours).items()]
    table = {"title": "Every model's score", "head": ["", *columns], "rows": rows}
    places = {
        name: {
            column: 1 + sum(row.get(column, 0.0) > score for row in others.values()) for column, score in row.items()
        }
        for name, row in ours.items()
    }
    if not any(places.values()):
        note = (
            "None of the sets asked here is among the paper's benchmarks, so there is no place to give: only the gain "
            "over the untouched model compares."
        )
    else:
        told = [
            f"{name}: " + ", ".join(f"{place} of {len(others) + 1} on {column}" for column, place in row.items())
            for name, row in places.items()
        ]
        note = "Places: " + "; ".join(told) + "."
    return {"tables": [table], "notes": [note], "numbers": {"places": places, "scores": ours}}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
