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
    if {ORACLE, ORACLE_PERMUTED, BASE_PERMUTED} <= set(data.names):
        numbers["permuted"], note = _label_fitting(data)
        notes.append(note)
    return {"columns": {"C3PO reports": column} if column else {}, "notes": notes, "numbers": numbers}


def _label_fitting(data: TableData) -> tuple[dict[str, Any], str]:
    """The gains of the oracle towards the right and towards permuted labels, and a sentence about them."""
    right = compare(data.right(BASE), data.right(ORACLE)).times(100)
    permuted = compare(data.right(BASE_PERMUTED), data.right(ORACLE_PERMUTED)).times(100)
    reached = {
        "right": _reached(data.right(BASE), data.right(ORACLE)),
        "permuted": _reached(data.right(BASE_PERMUTED), data.right(ORACLE_PERMUTED)),
    }
    note = (
        f"The oracle raises the share of right answers by {signed(right.gain)} points "
        f"({signed_interval(right.low, right.high)}). With the label of another question of the family as its target, "
        f"the same descent raises the share of answers that equal this label by {signed(permuted.gain)} points "
        f"({signed_interval(permuted.low, permuted.high)}). Of the questions with another answer before, it reaches "
        f"the right label for {100 * reached['right']:.0f} % and the permuted label for "
        f"{100 * reached['permuted']:.0f} %."
    )
    numbers = {
        "gain": [right.gain, right.low, right.high],
        "permuted_gain": [permuted.gain, permuted.low, permuted.high],
        "reached": reached,
    }
    return numbers, note


def _reached(before: np.ndarray, after: np.ndarray) -> float:
    """Of the questions that did not have the target as answer before, the share that has it after."""
    missing = ~before
    return float(after[missing].mean()) if missing.any() else 0.0


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
