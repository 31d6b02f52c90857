"""`r2t2 reproduce`: reproduce a table or figure of the paper on any model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from r2t2_jax.cli.output import print_json
from r2t2_jax.cli.parsing import CLUSTER, NO_CLUSTER, Cluster, Sets, log
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.formatting import plain_console, plural

if TYPE_CHECKING:  # building the parser must be fast
    from collections.abc import Sequence

    from r2t2_jax.reproduction.plan import EvalTarget, TargetPlan
    from r2t2_jax.reproduction.spec import Table
    from r2t2_jax.runs.cluster import Workers
    from r2t2_jax.runs.run import Run

NOT_RECORDED = ("out", "dry_run", "json", "max_hours", CLUSTER)  # options that change no result


@dataclass(frozen=True)
class Reproduce:
    """Reproduce a table or figure of the paper on a model, and test whether the paper's ordering holds.

    `all` runs every table and measures rows that several tables share once. Each table is written to the folder as
    Markdown, CSV and JSON, with the paper's numbers. After an interruption, the same command continues.

    Example: r2t2 reproduce table6 --model pocket --limit 100 --out out/table6
    """

    table: tyro.conf.Positional[str]
    """table2, table4 to table13, figure1, figure2, figure4 to figure14, table3, sensitivity tables, rivals, or all;
    c3po, or one of its tables (for models with routing per token)."""
    model: str
    """Model: pocket (both of its gates), another port, or a model directory."""
    out: Path
    """Folder of the run. A folder of a run with other settings is rejected."""
    data: Sets = ()
    """Question sets; default: the one registered with the model. Also --tasks, --benchmark, --dataset."""
    limit: int | None = None
    """Number of questions of each set; default: each table's own number. Also --samples."""
    bank: Path | None = None
    """Bank directory; default: the references registered with the model are collected."""
    embedder: str = ""
    """Embedder of the questions, that of the bank (nv_embed:DIR); default: the model's own."""
    embedders: Path | None = None
    """Folder with the model directories stella, gte_qwen2 and nv_embed, for the table of embedders."""
    beams: int = 1
    """Beams of the search for an answer, for models that have one; 1 is greedy, 3 the setting of the published MoAI."""
    max_new_tokens: str = ""
    """Longest answer in tokens, also by dataset: 64,mme=5. Default: the number of each published evaluation."""
    seed: int = 0
    """Seed of all random choices."""
    allow_leakage: bool = False
    """Accept questions that are also references: by id and question, or by image and question under any id."""
    block: int = 50
    """Questions per block; limited by the memory for them and their neighbors. It changes no result."""
    dry_run: bool = False
    """Print the predicted cost and run nothing; weights and data are not needed."""
    max_hours: float | None = None
    """Stop after this number of hours; the same command continues."""
    json: bool = False
    """Print the tables as JSON."""
    cluster: Cluster = NO_CLUSTER

    def run(self) -> None:
        """Compute the missing measurements, then write and print the tables."""
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.bank.manifest import read_manifest
        from r2t2_jax.runs.folder import check_folder
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

        check_folder(self.out, "reproduce", self._settings())  # before anything heavy is loaded
        if self.bank is not None:
            read_manifest(self.bank)
        if self.embedders is not None and not self.embedders.is_dir():
            raise R2T2Error(f"--embedders {self.embedders} is no folder")
        config = self.cluster.config()
        if self.dry_run:
            self._print_dry_run(config.describe() if config else None)
            return
        enable_compilation_cache()
        from rich.markdown import Markdown

        from r2t2_jax.evaluation.devices import local_model
        from r2t2_jax.evaluation.setup import ModelSource
        from r2t2_jax.reporting.report import REPORT, write_report
        from r2t2_jax.reproduction.export import markdown, read_table
        from r2t2_jax.reproduction.measure import measure
        from r2t2_jax.reproduction.plan import open_targets, plan_target
        from r2t2_jax.reproduction.spec import choose_tables
        from r2t2_jax.runs.cluster import connect
        from r2t2_jax.validation.strategies import check_strategies

        tables = choose_tables(self.table)
        samples = self.limit or max(table.samples for table in tables)
        model = local_model(self.model, self.cluster.model_uri)
        variants = list(dict.fromkeys(variant for table in tables for variant in table.variants))
        targets = open_targets(
            model, self.data, samples, self.seed, self.embedder, self.beams, self.max_new_tokens, variants
        )
        plans = [plan_target(target, tables, self.limit, self.embedders) for target in targets]
        bank = None if self.bank is None else ReferenceBank.open(self.bank)
        for target, plan in zip(targets, plans, strict=True):
            check_strategies(plan.required, target.samples, bank, target.port, target.model)
        with connect(config, log) as workers, self._open(targets, plans, workers) as run:
            if not run.complete:
                sources = None
                if workers:
                    sources = {
                        target.port.name: ModelSource.of(workers, target.port, target.model, self.embedder)
                        for target in targets
                    }
                measure(run, targets, plans, self.bank, self.seed, self.block, workers, sources, self.allow_leakage)
                self._write(run, tables, targets, plans)
            report = self.out / REPORT
            if any(plan.detailed for plan in plans) and not report.exists():
                write_report(self.out, png=True)
        if self.json:
            print_json({table.name: read_table(self.out, table.name) for table in tables})
            return
        console = plain_console()
        for table in tables:
            console.print(Markdown(markdown(read_table(self.out, table.name))))
        console.print(
            f"Wrote {plural(len(tables), 'table')} to {self.out}, each as .md, .csv and .json.", soft_wrap=True
        )

    def _print_dry_run(self, workers: str | None) -> None:
        from rich.markdown import Markdown

        from r2t2_jax.plugins import load_shapes
        from r2t2_jax.reproduction.estimate import estimate, estimate_markdown, estimate_record, set_sizes
        from r2t2_jax.reproduction.spec import choose_tables
        from r2t2_jax.runtime.progress import phase

        tables, shapes = choose_tables(self.table), load_shapes(self.model)
        sizes = set_sizes()
        known = {name: sizes.get(name) for name in self.data or sizes}
        questions = sum(self.limit or size or 0 for size in known.values())
        if unknown := [name for name, size in known.items() if not size and not self.limit]:
            raise R2T2Error(f"the number of questions of {', '.join(unknown)} is unknown: pass --limit")
        with phase("count the operations of every row"):
            estimated = estimate(shapes, tables, questions)
        if self.json:
            print_json(estimate_record(shapes.name, estimated, tables) | {"workers": workers})
            return
        plain_console().print(Markdown(estimate_markdown(shapes.name, estimated, tables)))
        if workers:
            print(workers)

    def _settings(self) -> dict[str, Any]:
        return {
            key: str(value) if isinstance(value, Path) else value
            for key in (each.name for each in fields(self))
            if (value := getattr(self, key)) not in (None, ()) and value is not False and key not in NOT_RECORDED
        }

    def _open(self, targets: Sequence[EvalTarget], plans: Sequence[TargetPlan], workers: Workers | None) -> Run:
        from r2t2_jax.bank.manifest import full_digest
        from r2t2_jax.evaluation.question_sets import samples_digest
        from r2t2_jax.evaluation.setup import references_digest
        from r2t2_jax.reproduction.plan import dataset_source, presets_of
        from r2t2_jax.runs.cluster import devices_of
        from r2t2_jax.runs.fingerprint import versions
        from r2t2_jax.runs.plan import Plan
        from r2t2_jax.runs.run import Run

        models = {
            target.name: {
                "model": target.port.fingerprint,
                "embedder": target.port.embedder.fingerprint,
                "experts": target.port.model.spec.experts,
                "routing_shape": target.port.model.spec.shape,
                "presets": {name: preset.to_mapping() for name, preset in presets_of(target.port).items()},
                "references": references_digest(target.port, self.bank),
                "data": target.data,
                "decoding": {"beams": target.port.beams, "max_new_tokens": target.port.max_new_tokens},
            }
            for target in targets
        }
        parts = [part for plan in plans for part in plan.parts(self.block)]
        data = {
            target.data: dataset_source(target.data, len(target.samples), self.seed)
            | {"questions": samples_digest(target.samples)}
            for target in targets
        }
        depends: dict[str, Any] = {"data": data, "models": models, "versions": versions(devices_of(workers))}
        if self.embedders is not None:
            files = sorted(self.embedders.glob("*/model.json"))
            depends["embedders"] = {file.parent.name: full_digest(file)[:16] for file in files}
        return Run.open(self.out, "reproduce", self._settings(), Plan(parts), depends, self.max_hours)

    def _write(
        self, run: Run, tables: Sequence[Table], targets: Sequence[EvalTarget], plans: Sequence[TargetPlan]
    ) -> None:
        from r2t2_jax.evaluation.benchmark import REFERENCES
        from r2t2_jax.evaluation.statistics import summary_content
        from r2t2_jax.reproduction.export import write_table
        from r2t2_jax.reproduction.results import summarize_target, table_result
        from r2t2_jax.reproduction.table_data import MeasuredRows

        rows = MeasuredRows(table for batch, table in run.tables() if not batch.part.endswith(REFERENCES))
        for table in tables:
            write_table(self.out, table_result(table, targets, plans, rows, self.limit))
        summaries = {plan.target: summarize_target(plan, rows) for plan in plans if plan.detailed}
        run.finish({"tables": [table.name for table in tables], **summary_content(summaries)})
