"""`r2t2 reproduce`: a table or figure of the paper, on any model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from r2t2_jax.errors import R2T2Error

if TYPE_CHECKING:  # the parser alone must start fast
    from collections.abc import Sequence

    from r2t2_jax.reproduction.plan import EvalTarget, SubjectPlan
    from r2t2_jax.reproduction.spec import Table
    from r2t2_jax.runs.run import Run

NO_SETTINGS = ("out", "dry_run", "max_hours")  # no result depends on them


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
    embedder: str = ""
    """What finds like questions: the bank's embedder (nv_embed:DIR). Without it the model's own."""
    embedders: Path | None = None
    """Folder of the model directories stella, gte_qwen2 and nv_embed, for the table of embedders."""
    seed: int = 0
    """Draws the questions and everything else that is drawn."""
    block: int = 50
    """Questions at a time: as many as fit into memory with their neighbours. No result depends on it."""
    dry_run: bool = False
    """Say what it would take, from the model's shapes alone, and do nothing: no weights and no data are needed."""
    max_hours: float | None = None
    """Stop after so many hours; the same command goes on."""

    def run(self) -> None:
        """Measure what is missing, write the tables, print them."""
        from r2t2_jax.runs.folder import check_folder
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

        if self.dry_run:
            self._foretell()
            return
        check_folder(self.out)  # before anything heavy is loaded
        enable_compilation_cache()

        from rich.console import Console
        from rich.markdown import Markdown

        from r2t2_jax.reporting.report import REPORT, write_report
        from r2t2_jax.reproduction.export import markdown, read_table
        from r2t2_jax.reproduction.measure import measure
        from r2t2_jax.reproduction.plan import open_subjects, plan_subject
        from r2t2_jax.reproduction.spec import choose_tables

        tables = choose_tables(self.table)
        most = self.samples or max(table.samples for table in tables)
        subjects = open_subjects(self.model, self.data, most, self.seed, self.embedder)
        plans = [plan_subject(subject, tables, self.samples, self.embedders) for subject in subjects]
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

    def _foretell(self) -> None:
        from rich.console import Console
        from rich.markdown import Markdown

        from r2t2_jax.plugins import load_shapes
        from r2t2_jax.reproduction.estimate import estimate, estimate_markdown, set_sizes
        from r2t2_jax.reproduction.spec import choose_tables

        tables, shapes = choose_tables(self.table), load_shapes(self.model)
        sizes = set_sizes()
        known = {name: sizes.get(name) for name in self.data or sizes}
        questions = sum(self.samples or size or 0 for size in known.values())
        if unknown := [name for name, size in known.items() if not size and not self.samples]:
            raise R2T2Error(f"how many questions {', '.join(unknown)} would be is not known: give --samples")
        found = estimate(shapes, tables, questions)
        Console().print(Markdown(estimate_markdown(shapes.name, found, tables)))

    def _open(self, subjects: Sequence[EvalTarget], plans: Sequence[SubjectPlan]) -> Run:
        from r2t2_jax.reproduction.plan import source_of
        from r2t2_jax.runs.fingerprint import versions
        from r2t2_jax.runs.plan import Plan
        from r2t2_jax.runs.run import Run

        given = {
            key: value for key, value in asdict(self).items() if value not in (None, ()) and key not in NO_SETTINGS
        }
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
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
        self, run: Run, tables: Sequence[Table], subjects: Sequence[EvalTarget], plans: Sequence[SubjectPlan]
    ) -> None:
        from r2t2_jax.evaluation.benchmark import REFERENCES
        from r2t2_jax.evaluation.statistics import summary_content
        from r2t2_jax.reproduction.export import write_table
        from r2t2_jax.reproduction.results import summary_of, table_result
        from r2t2_jax.reproduction.table_data import Rows

        rows = Rows(found for batch, found in run.tables() if not batch.part.endswith(REFERENCES))
        for table in tables:
            write_table(self.out, table_result(table, subjects, plans, rows, self.samples))
        summaries = {plan.subject: summary_of(plan, rows) for plan in plans if plan.detailed}
        run.finish({"tables": [table.name for table in tables], **summary_content(summaries)})
