"""Tables that a benchmark writes into a page stand between two marks: `<!-- results -->` and `<!-- /results -->`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def write_results(page: Path, text: str) -> None:
    """Put `text`, which ends its last line, between the marks of a page in place of what stands there."""
    parts = re.split(r"(<!-- /?results -->\n)", page.read_text(encoding="utf-8"))
    parts[2] = text
    page.write_text("".join(parts), encoding="utf-8")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
