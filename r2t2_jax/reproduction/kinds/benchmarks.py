"""The rows of a table by benchmark, by question family, among the paper's other models, and by cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from r2t2_jax.errors import R2T2Error
from r2t2_jax.methods import BASE
from r2t2_jax.reproduction.paper import COLUMN_OF, paper_numbers, paper_rows
from r2t2_jax.reproduction.table_data import TableData, TargetRows

PERCENT = 100
DESCENT = "ngd"
PAPER_NAMES = {"kernel_regression_alpha": "kernel_regression"}
OTHER_MODELS, METHODS = "table3_other_models", "table2"


def benchmarks(data: TableData) -> dict[str, Any]:
    """A column for each dataset with the paper's number in brackets; for a single dataset, a column for each family."""
    if len(data.targets) == 1:
        return _families(data.targets[0], data)
    names = [rows.target.data for rows in data.targets]
    head = ["", *(COLUMN_OF.get(name, name) for name in names)]
    numbers = {name: {rows.target.data: set_score(rows, name) for rows in data.targets} for name in data.names}
    paper = {row.name: data.table.paper_row(row.spec) or {} for row in data.rows}
    rows = [
        [name, *(_with_paper(score, paper[name].get(COLUMN_OF.get(key, ""))) for key, score in scores.items())]
        for name, scores in numbers.items()
    ]
    title = "By benchmark, official score: here (paper)"
    return {"tables": [{"title": title, "head": head, "rows": rows}], "numbers": {"benchmarks": numbers}}


def leaderboard(data: TableData) -> dict[str, Any]:
    """The paper's models and the measured rows in one table, and the rank of each row on every benchmark."""
    columns = list(COLUMN_OF.values())
    others = paper_rows(OTHER_MODELS) | {f"{name} (paper)": row for name, row in paper_rows(METHODS).items()}
    measured = {
        f"{data.targets[0].target.port.name} {name} (here)": {
            COLUMN_OF[rows.target.data]: set_score(rows, name) for rows in data.targets if rows.target.data in COLUMN_OF
        }
        for name in data.names
    }
    rows = [[name, *(_number(row.get(column)) for column in columns)] for name, row in (others | measured).items()]
    table = {"title": "Scores of all models", "head": ["", *columns], "rows": rows}
    places = {
        name: {
            column: 1 + sum(row.get(column, 0.0) > score for row in others.values()) for column, score in row.items()
        }
        for name, row in measured.items()
    }
    if not any(places.values()):
        note = "No dataset here is one of the paper's benchmarks, so only the gain over the untouched model compares."
    else:
        texts = [
            f"{name}: " + ", ".join(f"{place} of {len(others) + 1} on {column}" for column, place in row.items())
            for name, row in places.items()
        ]
        note = "Ranks: " + "; ".join(texts) + "."
    return {"tables": [table], "notes": [note], "numbers": {"places": places, "scores": measured}}


def set_score(rows: TargetRows, name: str) -> float:
    """The benchmark's official score, such as MME's points or MMBench's circular accuracy, or the mean score."""
    from r2t2_jax.datasets.catalog import DATASETS
    from r2t2_jax.metrics import get_set_score

    scores = rows.tables[name]["score"].to_pylist()
    dataset = DATASETS.get(rows.target.data)
    score = get_set_score("accuracy" if dataset is None else dataset.set_score)
    return round(next(iter(score(scores, rows.target.samples[: len(scores)]).values())), 2)


def _with_paper(score: float, paper: float | None) -> str:
    return f"{score:.1f}" + ("" if paper is None else f" ({paper:.1f})")


def _families(target: TargetRows, data: TableData) -> dict[str, Any]:
    families = np.array(target.families)
    names = np.unique(families).tolist()
    if len(names) < 2:
        return {}
    numbers = {
        name: {family: round(float(target.right(name)[families == family].mean()), 4) for family in names}
        for name in data.names
    }
    head = ["", *(f"{family} (n = {int((families == family).sum())})" for family in names)]
    rows = [[name, *(f"{PERCENT * share:.1f}" for share in shares.values())] for name, shares in numbers.items()]
    losses = [
        f"{family} ({PERCENT * (numbers[name][family] - numbers[BASE][family]):+.1f})".replace("-", "−")
        for name in data.names
        if name == DESCENT
        for family in names
        if numbers[name][family] < numbers[BASE][family]
    ]
    notes = [f"Descent is worse than the untouched model on: {', '.join(losses)} points."] if losses else []
    title = "Accuracy by question family, %"
    return {
        "tables": [{"title": title, "head": head, "rows": rows}],
        "numbers": {"families": numbers},
        "notes": notes,
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def cost(data: TableData) -> dict[str, Any]:
    """FLOPs as multiples of the untouched model's, here and in the paper, and the cost variants of descent."""
    from r2t2_jax.costs.ladder import CostSettings, cost_table
    from r2t2_jax.plugins import load_shapes

    printed = {row["method"]: row["tflops"] for row in paper_numbers()["table4_cost"]}
    paper = {
        name: printed[PAPER_NAMES.get(name, name)] / printed[BASE]
        for name in data.names
        if PAPER_NAMES.get(name, name) in printed
    }
    columns = {"paper, × base": {name: f"{ratio:.2f}" for name, ratio in paper.items()}}
    try:
        counted = cost_table(load_shapes(data.model), CostSettings())
    except R2T2Error as error:
        return {"columns": columns, "notes": [f"FLOPs were not counted: {error}"]}
    measured = {row.method: counted.times_base(row) for row in counted.rows}
    literal, cheapest = (counted.times_base(counted.variants[i]) for i in (0, -1))
    measured[DESCENT] = cheapest
    columns["here, × base"] = {name: f"{measured[name]:.2f}" for name in data.names if name in measured}
    variants = [
        [row.method, f"{row.flops:.3e}", f"{counted.times_base(row):.1f}"] for row in (counted.base, *counted.variants)
    ]
    note = (
        f"The table has the cheapest variant of descent. The literal form costs {literal:.1f} times the untouched "
        f"model, not {paper[DESCENT]:.1f} as in the paper, whose numbers do not match ten steps with five neighbors "
        "(see `r2t2 cost`)."
    )
    title = "Variants of descent, from the literal form to the cheapest"
    table = {"title": title, "head": ["", "FLOPs", "× base"], "rows": variants}
    numbers = {"paper_times_base": paper, "times_base": measured, "literal": literal}
    return {"columns": columns, "tables": [table], "notes": [note], "numbers": numbers}
