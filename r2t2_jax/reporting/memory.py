"""What `r2t2 fit` prints: how much fits, and what takes the memory. Readable at 80 columns."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from r2t2_jax.evaluation.fitting import MOST_NEIGHBORS, MOST_SAMPLES, Fit, Footprint
from r2t2_jax.sizes import format_size


def memory_table(title: str, fit: Fit) -> Table:
    """What takes the memory of a batch: one row for each number of neighbours, the largest batch last."""
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=0)
    for header in ("neighbours\nk", "batch\nB", "parameters", "neighbours'\nfeatures", "samples", "activations", "all"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in (*fit.examples, fit.most_samples):
        sizes = (row.parameters, row.references, row.queries, row.activations, row.total)
        about = "" if row.compiled else "~"
        table.add_row(
            f"{row.neighbors:,}",
            f"{row.samples:,}",
            *map(format_size, sizes[:3]),
            *(about + format_size(size) for size in sizes[3:]),
        )
    return table


def fit_lines(fit: Fit) -> list[str]:
    """What fits, in words."""
    many, batch = fit.most_neighbors, fit.most_samples
    return [
        f"largest k for a batch of one: {many.neighbors:,}{_end(many.neighbors == MOST_NEIGHBORS)}",
        f"largest batch with k={batch.neighbors}: {batch.samples:,}{_end(batch.samples == MOST_SAMPLES)}",
    ]


def _end(reached: bool) -> str:
    return " (where the search ends; more would fit)" if reached else ""


def footprint_record(footprint: Footprint) -> dict[str, int | bool]:
    """A footprint ready for JSON, in bytes."""
    return {
        "k": footprint.neighbors,
        "batch": footprint.samples,
        "parameters": footprint.parameters,
        "neighbor_features": footprint.references,
        "samples": footprint.queries,
        "activations": footprint.activations,
        "total": footprint.total,
        "compiled": footprint.compiled,
    }
