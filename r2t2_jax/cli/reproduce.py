"""`r2t2 reproduce`: a table or figure of the paper, on any model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:  # the parser alone must start fast
    from collections.abc import Sequence

    from r2t2_jax.reproduction.plan import SubjectPlan
    from r2t2_jax.reproduction.subjects import Subject
    from r2t2_jax.reproduction.tables import Table
    from r2t2_jax.runs.run import Run


@dataclass(frozen=True)
class Reproduce:
    """Reproduce a table or figure of the paper on a model, with the paper's numbers beside ours and its trend tested.

    Every table is a file that says what it compares; `all` runs them all and measures what they share once. The folder
    holds each table as Markdown, CSV and JSON. Interrupted at any point, the same command goes on where it stopped.

    Example: r2t2 reproduce table6 --model pocket --samples 100 --out out/table6
    """

    table: tyro.conf.Positional[str]
    """table2, table4 to table13, figure1, figure2, figure4 to figure14, table3, sensitivity tables, rivals, or all."""
    model: str
    """The model: pocket (both of its gates), another port, or a model directory."""
    out: Path
    """Folder of the run. One with other settings is refused."""
    samples: int | None = None
    """How many questions of each set; without it each table's own number."""
    data: tuple[str, ...] = ()
    """Sets to ask. Without it the one registered with the model."""
    bank: Path | None = None
    """Bank directory. Without it the references registered with the model are collected."""
    seed: int = 0
    """Draws the questions and everything else that is drawn."""
    block: int = 50
    """Questions at a time: as many as fit into memory with their neighbours. No result depends on it."""
    max_hours: float | None = None
    """Stop after so many hours; the same command goes on."""

    def run(self) -> None:
        """Measure what is missing, write the tables, print them."""
        from r2t2_jax.runs.folder import check_folder

        check_folder(self.out)  # before anything heavy is loaded

        from rich.console import Console
        from rich.markdown import Markdown

        from r2t2_jax.reporting.html import REPORT, write_report
        from r2t2_jax.reproduction.measure import measure
        from r2t2_jax.reproduction.plan import plan_subject
        from r2t2_jax.reproduction.subjects import open_subjects
        from r2t2_jax.reproduction.tables import choose_tables
        from r2t2_jax.reproduction.writing import markdown, read_table

        tables = choose_tables(self.table)
        most = self.samples or max(table.samples for table in tables)
        subjects = open_subjects(self.model, self.data, most, self.seed)
        plans = [plan_subject(subject, tables, self.samples) for subject in subjects]
        with self._open(subjects, plans) as run:
            if not run.complete:
                measure(run, subjects, plans, self.bank, self.seed, self.block)
                self._write(run, tables, subjects, plans)
            report = self.out / REPORT
            if any(plan.detailed for plan in plans) and not report.exists():
                write_report(self.out)
        console = Console()
        for table in tables:
            console.print(Markdown(markdown(read_table(self.out, table.name))))
        console.print(f"Wrote {len(tables)} tables to {self.out}, each as .md, .csv and .json.", soft_wrap=True)

    def _open(self, subjects: Sequence[Subject], plans: Sequence[SubjectPlan]) -> Run:
        from r2t2_jax.reproduction.subjects import source_of
        from r2t2_jax.runs.identity import versions
        from r2t2_jax.runs.plan import Plan
        from r2t2_jax.runs.run import Run

        settings = {key: value for key, value in asdict(self).items() if key not in ("out", "max_hours")}
        settings |= {"bank": None if self.bank is None else str(self.bank), "data": list(self.data)}
        models = {
            subject.name: {
                "model": subject.port.fingerprint,
                "embedder": subject.port.embedder.fingerprint,
                "experts": subject.port.model.spec.experts,
                "routing_shape": subject.port.model.spec.shape,
                "data": subject.data,
            }
            for subject in subjects
        }
        parts = [part for plan in plans for part in plan.parts(self.block)]
        data = {subject.data: source_of(subject.data, len(subject.samples), self.seed) for subject in subjects}
        depends: dict[str, Any] = {"data": data, "models": models, "versions": versions()}
        return Run.open(self.out, "reproduce", settings, Plan(parts), depends, self.max_hours)

    def _write(
        self, run: Run, tables: Sequence[Table], subjects: Sequence[Subject], plans: Sequence[SubjectPlan]
    ) -> None:
        from r2t2_jax.evaluation.recording import REFERENCES
        from r2t2_jax.reproduction.found import Rows
        from r2t2_jax.reproduction.results import summary_of, table_result
        from r2t2_jax.reproduction.writing import write_table

        rows = Rows(found for batch, found in run.tables() if not batch.part.endswith(REFERENCES))
        for table in tables:
            write_table(self.out, table_result(table, subjects, plans, rows, self.samples))
        summaries = {plan.subject: summary_of(plan, rows) for plan in plans if plan.detailed}
        run.finish({"tables": [table.name for table in tables], "models": summaries})
