"""`r2t2 datasets list`: the sets of files, what they need and which are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ListDatasets:
    """List the reference sets and benchmarks: splits, metric, licence, and what of them is prepared.

    Example: r2t2 datasets list
    """

    data_dir: Path | None = None
    """Where prepared sets are; without it $R2T2_DATA, or the folder of TensorFlow Datasets."""
    files: bool = False
    """Show the official files each set is made of, and its home page."""

    def run(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        from r2t2_jax.datasets.catalog import SOURCES
        from r2t2_jax.datasets.prepared import data_folder, prepared_units

        folder = data_folder(self.data_dir)
        table = Table(title=f"Datasets; prepared ones are in {folder}", title_justify="left")
        for column in (
            ("name", "role", "splits", "files", "home")
            if self.files
            else (*("name", "role", "splits", "metric", "licence", "prepared"),)
        ):
            table.add_column(column, overflow="fold")
        for source in SOURCES.values():
            splits = ", ".join(source.splits) or "any"
            if self.files:
                table.add_row(source.name, source.role, splits, source.files, source.home)
                continue
            units = [f"{unit.name} ({unit.count:,})" for unit in prepared_units(source, folder)]
            table.add_row(source.name, source.role, splits, source.metric, source.licence, ", ".join(units))
        Console().print(table)
