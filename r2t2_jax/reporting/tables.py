"""The tables a run prints; readable at 80 columns.

Axis letters: B test samples.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from rich.box import SIMPLE_HEAD
from rich.table import Table

from r2t2_jax.evaluation.statistics import paired_gain


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


SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; numbers stand to the right."""
    lines = [head, ["---:" if _numbers(rows, i) else "---" for i in range(len(head))], *rows]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def grid(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first line the head, its first column to the left."""
    head, *rest = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---", *["--:"] * (len(head) - 1)], *rest))


def latex(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A `tabular` with the rules of the package booktabs."""
    places = "".join("r" if _numbers(rows, i) else "l" for i in range(len(head)))
    lines = [rf"\begin{{tabular}}{{{places}}}", r"\toprule", _latex_row(head), r"\midrule"]
    return "\n".join([*lines, *map(_latex_row, rows), r"\bottomrule", r"\end{tabular}", ""])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escape, cells)) + r" \\"


def _escape(text: str) -> str:
    return re.sub(r"[\\~^&%$#_{}]", lambda found: SPECIAL.get(found[0], "\\" + found[0]), text)


def comma_separated(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """As RFC 4180 has it, but that lines end as on this system's text files."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([head, *rows])
    return out.getvalue()


def _numbers(rows: Sequence[Sequence[str]], column: int) -> bool:
    return all(re.fullmatch(r"[-+]?[\d.,]*( to [-+]?[\d.]+)?", row[column]) for row in rows)


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
