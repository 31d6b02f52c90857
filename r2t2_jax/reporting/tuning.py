"""What `r2t2 tune` prints: the best settings of the last rung, and the one chosen. Readable at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from r2t2_jax.reporting.tables import percent

SHOWN = 10
MEASURES = ("n", "accuracy", "ci95", "evaluations_per_case")


def settings_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The first rows of a preset's evidence."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    varied = [key for key in rows[0] if key not in MEASURES]
    for header in (*(key.replace("_", "\n") for key in varied), "n", "right\n%", "95 %\ninterval", "evals\n/case"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows[:SHOWN]:
        low, high = row["ci95"]
        measures = (f"{row['n']:,}", percent(row["accuracy"]), f"{percent(low)}-{percent(high)}")
        table.add_row(*(f"{row[key]}" for key in varied), *measures, str(row["evaluations_per_case"]))
    return table


def chosen_lines(preset: Mapping[str, Any]) -> list[str]:
    """The preset in words, beside the router and equal weights."""
    evidence = preset["evidence"]
    gain, (low, high) = evidence["gain_over_base"]["points"], evidence["gain_over_base"]["ci95"]
    varied = [key for key in evidence["table"][0] if key not in MEASURES]
    settings = ", ".join(f"{key.replace('_', ' ')} {preset['settings'][key]}" for key in varied)
    base, uniform = (percent(evidence[name]["accuracy"]) for name in ("base", "uniform"))
    return [
        f"Chosen: {settings}",
        f"{percent(evidence['accuracy'])} % of {evidence['n']:,} right; base {base} %, equal weights {uniform} %; "
        f"gain over base {gain:+.1f} points ({low:+.1f} to {high:+.1f})",
        f"{evidence['rule'].capitalize()}; {evidence['caution']}.",
    ]
