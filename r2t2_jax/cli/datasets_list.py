"""`r2t2 datasets list`: the sets of files, what they need and which are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ListDatasets:
    """List the reference sets and benchmarks: splits, metric, and what of them is prepared.

    Example: r2t2 datasets list
    """

    data_dir: Path | None = None
    """Where prepared sets are; without it $R2T2_DATA, or the folder of TensorFlow Datasets."""
    files: bool = False
    """Show licences, the official files each set is made of, and home pages."""

    def run(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        from r2t2_jax.datasets.catalog import SOURCES
        from r2t2_jax.datasets.prepared import data_folder, prepared_units

        folder = data_folder(self.data_dir)
        table = Table(title=f"Datasets; prepared ones are in {folder}", title_justify="left", show_lines=self.files)
        columns = ("licence", "official files", "home") if self.files else ("splits", "role", "metric", "prepared")
        for column in ("name", *columns):
            table.add_column(column, overflow="fold")
        for source in SOURCES.values():
            if self.files:
                table.add_row(source.name, source.licence, source.files, source.home)
                continue
            units = ", ".join(f"{unit.name} ({unit.count:,})" for unit in prepared_units(source, folder))
            table.add_row(source.name, ", ".join(source.splits) or "any", source.role, source.metric, units)
        Console().print(table)
