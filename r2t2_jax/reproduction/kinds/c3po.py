"""What C3PO (arXiv 2504.07964) reports next to what is measured, and which gains pass the controls.

`c3po.json` holds the published ranges of the gain over the untouched model: they cover two models and six benchmarks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from r2t2_jax.evaluation.statistics import compare
from r2t2_jax.methods import BASE, BASE_PERMUTED, ORACLE_PERMUTED
from r2t2_jax.reporting.formatting import signed, signed_interval
from r2t2_jax.reporting.roles import BOUND, role
from r2t2_jax.reproduction.table_data import TableData

ORACLE = "oracle"


@cache
def published() -> Mapping[str, Any]:
    """The numbers of C3PO and their source."""
    return json.loads(files("r2t2_jax.reproduction").joinpath("c3po.json").read_text(encoding="utf-8"))


def c3po(data: TableData) -> dict[str, Any]:
    """A column with the published gains, and the gains that are significant, with the oracle's control."""
    gains = published()["gain_percent"]
    column = {name: "+{} to +{} %".format(*gains[name]) for name in data.names if name in gains}
    rows = {row.name: row.spec.strategy for row in data.rows if row.label}
    without_label = [name for name, strategy in rows.items() if name != BASE and role(strategy) != BOUND]
    base = data.right(BASE)
    results = {name: compare(base, data.right(name)) for name in without_label}
    better = [name for name, result in results.items() if result.low > 0]
    worse = [name for name, result in results.items() if result.high < 0]
    notes = [
        f"Better than the untouched model without reading a label (95 % interval above zero): {_listed(better)}. "
        f"Worse: {_listed(worse)}."
    ]
    numbers: dict[str, Any] = {"better": better, "worse": worse}
    tables = []
    if {ORACLE, ORACLE_PERMUTED, BASE_PERMUTED} <= set(data.names):
        numbers["permuted"], note = _label_fitting(data)
        notes.append(note)
        tables.append(_oracle_by_family(data))
    columns = {"C3PO reports": column} if column else {}
    return {"columns": columns, "tables": tables, "notes": notes, "numbers": numbers}


def _oracle_by_family(data: TableData) -> dict[str, Any]:
    """The oracle and its control by family: on two-way answers any label is within reach, on others it need not be."""
    names = (BASE, ORACLE, BASE_PERMUTED, ORACLE_PERMUTED)
    families = np.asarray(data.families)
    rows = []
    for family in sorted(set(data.families)):
        members = families == family
        shares = [f"{100 * data.right(name)[members].mean():.1f}" for name in names]
        rows.append([family, f"{members.sum():,}", *shares])
    title = "The oracle by family: right answers in %, and answers that equal the permuted label in %"
    return {"title": title, "head": ["family", "n", *names], "rows": rows}


def _label_fitting(data: TableData) -> tuple[dict[str, Any], str]:
    """The gains of the oracle towards the right and towards permuted labels, and a sentence about them."""
    right = _gain(data.right(BASE), data.right(ORACLE))
    permuted = _gain(data.right(BASE_PERMUTED), data.right(ORACLE_PERMUTED))
    reached = {
        "right": _reached(data.right(BASE), data.right(ORACLE)),
        "permuted": _reached(data.right(BASE_PERMUTED), data.right(ORACLE_PERMUTED)),
    }
    note = (
        f"The oracle changes the share of right answers by {signed(right[0])} points "
        f"({signed_interval(*right[1:])}). With the label of another question of the family as its target, "
        f"the same descent changes the share of answers that equal this label by {signed(permuted[0])} points "
        f"({signed_interval(*permuted[1:])}). Of the questions with another answer before, it reaches "
        f"the right label for {100 * reached['right']:.0f} % and the permuted label for "
        f"{100 * reached['permuted']:.0f} %."
    )
    numbers = {
        "gain": right,
        "permuted_gain": permuted,
        "reached": reached,
    }
    return numbers, note


def _gain(before: np.ndarray, after: np.ndarray) -> list[float]:
    """Gain and its interval in points, rounded as in the rows of the table."""
    result = compare(before, after).times(100)
    return [round(value, 2) for value in (result.gain, result.low, result.high)]


def _reached(before: np.ndarray, after: np.ndarray) -> float:
    """Of the questions that did not have the target as answer before, the share that has it after."""
    missing = ~before
    return float(after[missing].mean()) if missing.any() else 0.0


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
