"""`r2t2 score`: a run's answers, scored by another metric."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Score:
    """Score a run's stored answers by another metric. Neither model nor images are needed, and the run stays as it is.

    Example: r2t2 score out/eval --metric vqa_lmms_eval
    """

    run_folder: tyro.conf.Positional[Path]
    """Folder of a complete run."""
    metric: str
    """The metric; docs/datasets.md lists them."""
    out: Path | None = None
    """JSON file for the numbers."""

    def run(self) -> None:
        """Score, print the tables and, where asked, write the numbers."""
        from rich.console import Console

        from r2t2_jax.cli.outputs import check_writable
        from r2t2_jax.evaluation.rescoring import rescore
        from r2t2_jax.metrics import get_metric
        from r2t2_jax.reporting.tables import strategy_table
        from r2t2_jax.runs.files import publish_json
        from r2t2_jax.runs.reading import open_run

        if self.out:
            check_writable(self.out)
        models = rescore(open_run(self.run_folder), get_metric(self.metric))
        console = Console()
        for title, summary in models.items():
            console.print(strategy_table(f"{title}: {summary['n']:,} questions, metric {self.metric}", summary))
        if self.out:
            publish_json(self.out, {"run": str(self.run_folder), "metric": self.metric, "models": models})
            console.print(f"Wrote {self.out}.", soft_wrap=True)
