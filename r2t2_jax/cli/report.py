"""`r2t2 report`: what a run did, as a page to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Report:
    """Write a run's report: one HTML file that holds everything, its figures and numbers beside it as PNG and CSV.

    Every run writes its report when it ends; this writes it again, or elsewhere.

    Example: r2t2 report out/demo
    """

    run_folder: tyro.conf.Positional[Path]
    """Folder of a complete run."""
    out: Path | None = None
    """The HTML file; report.html in the run's folder by default. A folder of its name stands beside it."""

    def run(self) -> None:
        """Write it and say where."""
        from r2t2_jax.reporting.html import write_report

        print(f"Wrote {write_report(self.run_folder, self.out)}.")
