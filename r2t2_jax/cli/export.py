"""`r2t2 export`: a run's answers as files of another tool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class Export:
    """Write a run's answers and scores as result files of another tool.

    Example: r2t2 export out/eval --lmms-eval out/logs
    """

    run_folder: tyro.conf.Positional[Path]
    """Folder of a complete run of r2t2 eval."""
    lmms_eval: Path | None = None
    """Folder for result and sample files as lmms-eval 0.7 writes them, a model a strategy."""

    def run(self) -> None:
        """Write the files and say where."""
        from r2t2_jax.reporting.lmms_eval_logs import export_lmms_eval
        from r2t2_jax.runs.reading import open_run

        if self.lmms_eval is None:
            raise R2T2Error("say in what form: --lmms-eval FOLDER")
        files = export_lmms_eval(open_run(self.run_folder), self.lmms_eval)
        print(f"Wrote {len(files)} files to {self.lmms_eval}.")
