"""`r2t2 strategies`, `metrics`, `models` and `datasets list`: the names that options take, with a description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from r2t2_jax.cli.output import print_json
from r2t2_jax.reporting.formatting import plain_console

WIDE = 1000  # columns where the output is no terminal, so that no line is broken
Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class ListStrategies:
    """List the strategies, with their role and a description. `base` is the unmodified model.

    Example: r2t2 strategies
    """

    json: bool = False
    """Print JSON instead of tables."""

    def run(self) -> None:
        """Print the strategies by role."""
        from r2t2_jax.methods import METHODS
        from r2t2_jax.reporting.roles import ROLES, description, role

        rows = [{"name": name, "role": role(name), "description": description(name) or ""} for name in METHODS]
        if self.json:
            print_json(rows)
            return
        for kind, heading in ROLES.items():
            _print_table(heading, [row for row in rows if row["role"] == kind], ("name", "description"))


@dataclass(frozen=True)
class ListMetrics:
    """List the metrics, with what they need of a question and a description.

    docs/datasets.md compares them; `r2t2 datasets list` shows the metric of each set.

    Example: r2t2 metrics
    """

    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Print the metrics."""
        from r2t2_jax.metrics import METRICS, describe_metric, needs_of_metric

        rows = [
            {"name": name, "needs": needs_of_metric(name), "description": describe_metric(name)} for name in METRICS
        ]
        if self.json:
            print_json(rows)
        else:
            _print_table("metrics", rows, ("name", "needs", "description"))


@dataclass(frozen=True)
class ListModels:
    """List the models and the embedders of questions, with their weights and a description.

    Models of your own are named by module:attribute; CONTRIBUTING.md describes how to write one.

    Example: r2t2 models
    """

    json: bool = False
    """Print JSON instead of tables."""

    def run(self) -> None:
        """Print the models, then the embedders."""
        from r2t2_jax.plugins import EMBEDDERS, PORTS, describe

        groups = {"models": describe(PORTS), "embedders": describe(EMBEDDERS)}
        if self.json:
            print_json(groups)
            return
        for heading, rows in groups.items():
            _print_table(heading, rows, ("name", "weights", "description"))


@dataclass(frozen=True)
class ListDatasets:
    """List the reference sets and benchmarks with their splits, metrics and prepared data.

    Example: r2t2 datasets list
    """

    data_dir: Path | None = None
    """Folder of prepared sets. Default: $R2T2_DATA, or the folder of TensorFlow Datasets."""
    files: bool = False
    """Show licenses, official files and home pages."""
    json: bool = False
    """Print JSON, with everything that is known of each set."""

    def run(self) -> None:
        """Print the table, or the files of each set."""
        from r2t2_jax.datasets.catalog import DATASETS
        from r2t2_jax.datasets.prepared import data_folder, list_prepared_splits
        from r2t2_jax.datasets.registry import GENERATED_SPLITS, GROUP
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.plugins import registered

        folder = data_folder(self.data_dir)
        if self.data_dir is not None and not folder.is_dir():
            raise R2T2Error(f"--data-dir {self.data_dir} is no folder")
        generated = {
            "splits": ", ".join(GENERATED_SPLITS),
            "role": "generated",
            "metric": "exact_match",
            "prepared": "not needed",
            "license": "that of its package",
            "files": "none: its questions are generated",
            "home": "",
        }
        rows = [{"name": name, **generated} for name in registered(GROUP) if name not in DATASETS]
        for source in DATASETS.values():
            units = ", ".join(f"{unit.name} ({unit.count:,})" for unit in list_prepared_splits(source, folder))
            splits = ", ".join(source.splits) or "any"
            rows.append(
                {"name": source.name, "splits": splits, "role": source.role, "metric": source.metric, "prepared": units}
                | {"license": source.license, "files": source.files, "home": source.home}
            )
        if self.json:
            print_json({"folder": str(folder), "datasets": rows})
        elif self.files:
            self._print_files(rows)
        else:
            heading = f"datasets (prepared sets are in {folder})"
            _print_table(heading, rows, ("name", "splits", "role", "metric", "prepared"))

    def _print_files(self, rows: Rows) -> None:
        """A paragraph for each set; no line is broken, so that addresses can be copied."""
        console = plain_console()
        for row in rows:
            lines = [row["name"], *(f"  {name}: {row[name]}" for name in ("license", "files", "home") if row[name])]
            for line in lines:
                console.print(line, soft_wrap=True, highlight=False)


def _print_table(heading: str, rows: Rows, columns: Sequence[str]) -> None:
    """A heading and a table of these columns, with unbroken lines where the output is no terminal."""
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console = plain_console(**({} if sys.stdout.isatty() else {"width": WIDE}))
    table = Table(box=SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    console.print(heading, soft_wrap=True, highlight=False)
    console.print(table)
