"""The tables a run prints; readable at 80 columns.

Axis letters: B test samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from rich.box import SIMPLE_HEAD
from rich.table import Table

from r2t2_jax.evaluation.summary import paired_gain


def percent(share: float | None) -> str:
    """`0.4567` as `45.7`; a dash for what does not exist."""
    return "-" if share is None else f"{100 * share:.1f}"


def strategy_table(title: str, summary: Mapping[str, Any], seconds: Mapping[str, float] | None = None) -> Table:
    """One row a strategy.

    Args:
        title: what was run.
        summary: as `evaluation.summary.summarize` returns it.
        seconds: measured seconds a case, for each strategy; without them the column is left out.
    """
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=0)
    table.add_column("strategy", no_wrap=True)
    headers = (
        "right\n%",
        "95 %\ninterval",
        "share of\ngap %",
        "wrong→\nright",
        "right→\nwrong",
        "evals\n/case",
        *(() if seconds is None else ("s\n/case",)),
    )
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for name, row in summary["strategies"].items():
        low, high = row["ci95"]
        table.add_row(
            name,
            percent(row["accuracy"]),
            f"{percent(low)}-{percent(high)}",
            percent(row["gap_recovered"]),
            str(row["wrong_to_right"]),
            str(row["right_to_wrong"]),
            f"{row['evaluations_per_case']:g}",
            *(() if seconds is None else (f"{seconds[name]:.4f}",)),
        )
    return table


def family_table(
    title: str, summary: Mapping[str, Any], strategies: Sequence[str], columns: Mapping[str, str] | None = None
) -> Table:
    """Accuracy by question family, one column for each of the strategies named.

    `columns` are further entries of a family and their headings; they stand before the strategies.
    """
    columns = columns or {}
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=0)
    table.add_column("family", no_wrap=True)
    for header in ("n", *columns.values(), *(name.replace("_", "\n") for name in strategies)):
        table.add_column(header, justify="right", no_wrap=True)
    for family, row in summary["families"].items():
        shares = [row[name] for name in columns] + [row["accuracy"][name] for name in strategies]
        table.add_row(family, str(row["n"]), *map(percent, shares))
    return table


def agreement_line(summary: Mapping[str, Any]) -> str:
    """How well retrieval did, and what that is worth to `ngd`."""
    found = summary["neighbors"]
    line = f"neighbours that need the same experts: {percent(found['same_experts'])} %"
    for name, words in {"most": "where most do", "few": "elsewhere"}.items():
        if found[name]["n"]:
            line += f"; ngd {words}: {percent(found[name]['accuracy'])} % of {found[name]['n']}"
    return line


def gain_line(strategy: str, rival: str, right: Mapping[str, Bool[np.ndarray, "B"]]) -> str:
    """`ngd against base: +12.3 points (95 % interval 9.8 to 14.8, paired)`."""
    gain, low, high = (100 * value for value in paired_gain(right[rival], right[strategy]))
    return f"{strategy} against {rival}: {gain:+.1f} points (95 % interval {low:.1f} to {high:.1f}, paired)"
