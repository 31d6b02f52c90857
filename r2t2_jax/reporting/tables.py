"""Tables: for the terminal at 80 columns, as Markdown, LaTeX and CSV.

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

from r2t2_jax.evaluation.statistics import compare
from r2t2_jax.reporting.formatting import percent, percent_interval
from r2t2_jax.runtime.csv_cells import NUMBER, inert_cell

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # after the end of a row these are an option of it
}  # fmt: skip
SHOWN_SETTINGS = 10
MEASURES = ("n", "accuracy", "ci95", "evaluations_per_sample")  # of a row of tuning; the other columns are settings


def strategy_table(title: str, summary: Mapping[str, Any], seconds: Mapping[str, float] | None = None) -> Table:
    """One row per strategy: accuracy with its interval, share of the gap, changed answers, cost.

    Args:
        title: the table's title.
        summary: as `evaluation.statistics.summarize` returns it.
        seconds: measured seconds per sample by strategy; `None` leaves the column out.
    """
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=0)
    table.add_column("strategy", no_wrap=True)
    headers = (
        "acc.\n%",
        "95 %\ninterval",
        "gap re-\ncovered %",
        "wrong→\nright",
        "right→\nwrong",
        "evals\n/sample",
        *(() if seconds is None else ("s\n/sample",)),
    )
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for name, row in summary["strategies"].items():
        table.add_row(
            name,
            percent(row["accuracy"]),
            _interval(row),
            percent(row["gap_recovered"]),
            str(row["wrong_to_right"]),
            str(row["right_to_wrong"]),
            f"{row['evaluations_per_sample']:g}",
            *(() if seconds is None else (f"{seconds[name]:.4f}",)),
        )
    return table


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{percent(low)}-{percent(high)}"


def family_table(
    title: str, summary: Mapping[str, Any], strategies: Sequence[str], columns: Mapping[str, str] | None = None
) -> Table:
    """Accuracy by question family, one column for each of the named strategies.

    `columns` has the keys of further entries of a family, with their headings; they precede the strategies.
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


def settings_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The first rows of a tuned preset's evidence: settings, accuracy and cost."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    settings = [key for key in rows[0] if key not in MEASURES]
    for header in (
        *(re.sub("[._]", "\n", key) for key in settings),
        "n",
        "acc.\n%",
        "95 %\ninterval",
        "evals\n/sample",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows[:SHOWN_SETTINGS]:
        measures = (f"{row['n']:,}", percent(row["accuracy"]), _interval(row), str(row["evaluations_per_sample"]))
        table.add_row(*(f"{row[key]}" for key in settings), *measures)
    return table


def settings_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of all settings of a tuned preset's evidence, for a page."""
    settings = [key for key in rows[0] if key not in MEASURES]
    header = [*settings, "n", "accuracy, %", "95 % interval", "evaluations per sample"]
    cells = [
        [
            *(f"{row[key]}" for key in settings),
            f"{row['n']:,}",
            percent(row["accuracy"]),
            percent_interval(*row["ci95"]),
            f"{row['evaluations_per_sample']:g}",
        ]
        for row in rows
    ]
    return header, cells


def _value_at(settings: Mapping[str, Any], path: str) -> Any:
    """The value at a path such as `descent.steps`."""
    block, _, name = path.partition(".")
    return settings[block][name]


def preset_lines(preset: Mapping[str, Any]) -> list[str]:
    """The tuned preset in sentences, compared with the router and with equal weights."""
    evidence = preset["evidence"]
    gain, (low, high) = evidence["gain_over_base"]["points"], evidence["gain_over_base"]["ci95"]
    names = [key for key in evidence["table"][0] if key not in MEASURES]
    settings = ", ".join(f"{key} {_value_at(preset['settings'], key)}" for key in names)
    base, uniform = (percent(evidence[name]["accuracy"]) for name in ("base", "uniform"))
    return [
        f"Chosen: {settings}",
        f"{percent(evidence['accuracy'])} % of {evidence['n']:,} right; base {base} %, equal weights {uniform} %; "
        f"gain over base {gain:+.1f} points ({low:+.1f} to {high:+.1f})",
        f"{evidence['rule'].capitalize()}; {evidence['caution']}.",
    ]


def agreement_line(summary: Mapping[str, Any]) -> str:
    """The share of neighbors that need the same experts as the sample, and the accuracy of `ngd` by that share."""
    neighbors = summary["neighbors"]
    line = f"neighbors that need the same experts: {percent(neighbors['same_experts'])} %"
    for name, words in {"most": "where most neighbors do", "few": "elsewhere"}.items():
        if neighbors[name]["n"]:
            line += f"; ngd {words}: {percent(neighbors[name]['accuracy'])} % of {neighbors[name]['n']}"
    return line


def gain_line(strategy: str, other: str, right: Mapping[str, Bool[np.ndarray, "B"]]) -> str:
    """`ngd against base: +12.3 points (95 % interval 9.8 to 14.8, paired)`."""
    gain = compare(right[other], right[strategy]).times(100)
    return (
        f"{strategy} against {other}: {gain.gain:+.1f} points (95 % interval {gain.low:.1f} to {gain.high:.1f}, paired)"
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align_right: bool = False) -> str:
    """A pipe table. Columns of numbers are aligned to the right; with `align_right`, all columns but the first."""
    right = [column > 0 if align_right else _is_numeric(rows, column) for column in range(len(head))]
    rules = ["--:" if is_right else "---" for is_right in right]
    return "\n".join(f"| {' | '.join(_escape_pipes(line))} |" for line in (head, rules, *rows))


def _escape_pipes(cells: Sequence[str]) -> list[str]:
    """The cells in one line each, without markup: bars, HTML tags and links of Markdown."""
    return [re.sub(r"<(?=[\w/!?])|[|\[\]]", _markdown_escape, " ".join(cell.split())) for cell in cells]


def _markdown_escape(match: re.Match[str]) -> str:
    return "&lt;" if match[0] == "<" else f"\\{match[0]}"


def latex_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A `tabular` with the rules of the package booktabs."""
    alignment = "".join("r" if _is_numeric(rows, column) else "l" for column in range(len(head)))
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", _latex_row(head), r"\midrule"]
    return "\n".join([*lines, *map(_latex_row, rows), r"\bottomrule", r"\end{tabular}"])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escape_latex, cells)) + r" \\"


def _escape_latex(text: str) -> str:
    text = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return re.sub(r"[\\~^&%$#_{}\[\]*]", lambda match: LATEX_SPECIAL.get(match[0], "\\" + match[0]), text)


def csv_table(records: Sequence[Mapping[str, object]]) -> str:
    """Comma-separated values (RFC 4180, lines ending in a newline); the first record names the columns.

    Texts that a spreadsheet would compute, such as `=1+1`, begin with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(records[0]) if records else []
    writer.writerow(map(inert_cell, names))
    writer.writerows([inert_cell(record[name]) for name in names] for record in records)
    return out.getvalue()


def _is_numeric(rows: Sequence[Sequence[str]], column: int) -> bool:
    return all(NUMBER.fullmatch(row[column]) for row in rows)
