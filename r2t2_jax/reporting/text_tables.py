"""Tables as text for other programs: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

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
