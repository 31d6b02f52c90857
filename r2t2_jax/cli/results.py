"""`r2t2 results`: runs side by side, as tables for a paper, a page or a spreadsheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Results:
    """Tabulate runs side by side: every model and strategy on every benchmark, and what re-routing gained.

    Gains over the untouched model are paired, in points, with bootstrap intervals and the answers that turned right and
    wrong. Where runs asked the same questions, each strategy is compared from run to run too.

    Example: r2t2 results out/eval out/other --format latex
    """

    run_folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of complete runs of r2t2 eval or r2t2 demo."""
    format: Literal["md", "csv", "latex"] = "md"
    """Markdown, LaTeX (with booktabs), or one CSV table of everything."""

    def run(self) -> None:
        """Read the runs and print the tables."""
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.reporting.side_by_side import as_records, changes, details, overview, read_entries
        from r2t2_jax.reporting.text_tables import comma_separated, latex, markdown
        from r2t2_jax.runs.reading import open_run

        if not self.run_folders:
            raise R2T2Error("name at least one folder of a run")
        entries = read_entries([open_run(folder) for folder in self.run_folders])
        if self.format == "csv":
            records = as_records(entries)
            print(comma_separated(list(records[0]), [list(record.values()) for record in records]), end="")
            return
        write = markdown if self.format == "md" else latex
        tables = [overview(entries), details(entries), changes(entries)]
        print("\n".join(write(head, rows) for head, rows in tables if rows), end="")
