"""Tables that a benchmark writes into a page stand between two marks: `<!-- results -->` and `<!-- /results -->`."""

from __future__ import annotations

import re
from pathlib import Path


def write_results(page: Path, text: str) -> None:
    """Put `text`, which ends its last line, between the marks of a page in place of what stands there."""
    parts = re.split(r"(<!-- /?results -->\n)", page.read_text(encoding="utf-8"))
    parts[2] = text
    page.write_text("".join(parts), encoding="utf-8")
