"""Writes the tables of a benchmark into a page, between marks such as `<!-- results -->` and `<!-- /results -->`."""

from __future__ import annotations

import re
from pathlib import Path


def write_results(page: Path, text: str, mark: str = "results") -> None:
    """Replace the text between the marks of a page by `text`, which ends with a line break."""
    parts = re.split(rf"(<!-- /?{mark} -->\n)", page.read_text(encoding="utf-8"))
    parts[2] = text
    page.write_text("".join(parts), encoding="utf-8")
