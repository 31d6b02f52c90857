"""`r2t2 results`, `export`, `report` and `score`: tables, files and reports of saved runs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from r2t2_jax.cli.output import print_json, print_result
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.formatting import plain_console, plural

INTERVALS = "95 % intervals: Wilson's of accuracies; of gains over base paired, Bonett & Price 2012."


@dataclass(frozen=True)
class Results:
    """Compare runs in tables: every model and strategy on every benchmark, and the gain of re-routing.

    Gains over the unmodified model are paired, in points, with 95 % intervals (Bonett & Price 2012) and the numbers of
    answers that turned right and wrong. If runs share questions, each strategy is also compared between runs.

    Example: r2t2 results out/eval out/other --format latex
    """

    run_folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of complete runs of r2t2 eval or r2t2 demo."""
    format: Literal["table", "md", "csv", "latex"] = "table"
    """Tables for the terminal, Markdown, LaTeX (with booktabs), or one CSV table with all numbers."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> None:
        """Read the runs and print the tables."""
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.reporting.compare_runs import as_records, as_tables, changes, details, overview, read_entries
        from r2t2_jax.reporting.tables import csv_table, latex_table, markdown_table
        from r2t2_jax.runs.reading import open_run

        if not self.run_folders:
            raise R2T2Error("name at least one folder of a run")
        places = [folder.resolve() for folder in self.run_folders]
        for number, folder in enumerate(self.run_folders):
            if places[number] in places[:number]:
                raise R2T2Error(f"{folder} is named twice; name each run once")
        entries = read_entries([open_run(folder) for folder in self.run_folders])
        if self.json:
            print_json(as_records(entries))
            return
        if self.format == "csv":
            print(csv_table(as_records(entries)), end="")
            return
        if self.format == "table":
            console = plain_console()
            for table in as_tables(entries):
                console.print(table)
            console.print(INTERVALS, highlight=False)
            return
        write = markdown_table if self.format == "md" else latex_table
        tables = [overview(entries), details(entries), changes(entries)]
        print("\n\n".join(write(head, rows) for head, rows in tables if rows))


@dataclass(frozen=True)
class Export:
    """Write a run's answers and scores in the format of another tool, or log its summary to an experiment tracker.

    A tracker gets one run per model and strategy, with accuracy, interval, changed answers and evaluations. The extra
    `tracking` installs both trackers; WANDB_MODE=offline and Trackio need no network.

    Example: r2t2 export out/eval --lmms-eval out/logs --trackio my-project
    """

    run_folder: tyro.conf.Positional[Path]
    """Folder of a complete run of r2t2 eval."""
    lmms_eval: Path | None = None
    """Folder for result and sample files of lmms-eval 0.7, with each strategy as a model."""
    wandb: str = ""
    """Project of Weights & Biases to log the summary to."""
    trackio: str = ""
    """Project of Trackio to log the summary to."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Write the files and print where they are."""
        from r2t2_jax.reporting.lmms_eval_logs import export_lmms_eval
        from r2t2_jax.reporting.tracking import Tracker, log_summary
        from r2t2_jax.runs.reading import open_run

        projects: dict[Tracker, str] = {"wandb": self.wandb, "trackio": self.trackio}
        if self.lmms_eval is None and not any(projects.values()):
            raise R2T2Error("no format given: add --lmms-eval FOLDER, --wandb PROJECT or --trackio PROJECT")
        saved = open_run(self.run_folder)
        content: dict[str, Any] = {}
        if self.lmms_eval is not None:
            content["lmms_eval"] = export_lmms_eval(saved, self.lmms_eval)
            if not self.json:
                print(f"Wrote {len(content['lmms_eval'])} files to {self.lmms_eval}.")
        for tracker, project in projects.items():
            if project:
                with redirect_stdout(sys.stderr):  # trackers print
                    count = log_summary(saved, tracker, project)
                content[tracker] = {"project": project, "runs": count}
                if not self.json:
                    print(f"Logged {plural(count, 'run')}, one per model and strategy, to {tracker} as {project}.")
        if self.json:
            print_json(content)


@dataclass(frozen=True)
class Report:
    """Write a run's report: one self-contained HTML file, and a folder with its figures as SVG and numbers as CSV.

    r2t2 demo writes its report at its end; other commands name this one.

    Example: r2t2 report out/demo
    """

    run_folder: tyro.conf.Positional[Path]
    """Folder of a complete run."""
    out: Path | None = None
    """The HTML file. Default: report.html in the run's folder. The folder next to it has the same name."""
    png: bool = False
    """Write the figures also as PNG, which takes a few seconds more."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Write the report and print where it is."""
        from r2t2_jax.reporting.report import write_report

        path = write_report(self.run_folder, self.out, self.png)
        print_result(self.json, {"page": path}, f"Wrote {path}.")


@dataclass(frozen=True)
class Score:
    """Score a run's stored answers by another metric. This needs neither model nor images and leaves the run unchanged.

    Example: r2t2 score out/eval --metric startswith
    """

    run_folder: tyro.conf.Positional[Path]
    """Folder of a complete run."""
    metric: str
    """The metric; r2t2 metrics lists them. One that needs ten answers, or options, refuses questions without."""
    out: Path | None = None
    """JSON file for the numbers."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> None:
        """Score, print the tables and, with --out, write the numbers."""
        from r2t2_jax.analysis.rescore import rescore
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.reporting.tables import strategy_table
        from r2t2_jax.runs.atomic_io import publish_json
        from r2t2_jax.runs.reading import open_run

        if self.out:
            check_writable(self.out)
        models = rescore(open_run(self.run_folder), self.metric)
        scores = {"run": str(self.run_folder), "metric": self.metric, "models": models}
        console = plain_console()
        for title, summary in models.items() if not self.json else ():
            heading = f"{title}: {summary['n']:,} questions, metric {self.metric}"
            console.print(heading, soft_wrap=True, highlight=False)
            console.print(strategy_table("", summary))
        if self.out:
            publish_json(self.out, scores)
        if self.json:
            print_json(scores)
        elif self.out:
            console.print(f"Wrote {self.out}.", soft_wrap=True)
