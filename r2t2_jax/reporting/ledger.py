"""A cost ledger in print: a table for the terminal, readable at 80 columns, the same as Markdown, and what it means."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from r2t2_jax.evaluation.ledger import WRITTEN, Ledger, Row
from r2t2_jax.reporting.paper_costs import PAPER, times_base
from r2t2_jax.reporting.text_tables import grid
from r2t2_jax.sizes import format_size

NAMES = {WRITTEN: "base, as written"}
HEADERS = ("evaluations", "{unit} a case", "x base", "paper, x base", "kept for backward", "stored a reference")
UNITS = (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))


def unit_of(found: Ledger) -> tuple[str, float]:
    """The largest unit in which the base costs one or more."""
    return next((unit for unit in UNITS if found.base.flops >= unit[1]), UNITS[-1])


def _cells(found: Ledger) -> Iterator[tuple[str, ...]]:
    """One row a method, NGD's rungs before the atlas: each keeps what those above it save."""

    def cells(name: str, row: Row, paper: str) -> tuple[str, ...]:
        return (
            name,
            f"{row.evaluations:,}",
            f"{row.flops / unit_of(found)[1]:,.1f}",
            f"{found.times_base(row):,.2f}",
            "-" if (ratio := times_base(paper)) is None else f"{ratio:.2f}",
            "-" if row.activations is None else format_size(row.activations),
            format_size(row.stored) if row.stored else "-",
        )

    for row in found.rows[:-1]:
        yield cells(NAMES.get(row.method, row.method), row, row.method)
    for number, rung in enumerate(found.rungs):
        yield cells(f"ngd, {rung.method}" if not number else f"  + {rung.method}", rung, "" if number else "ngd")
    yield cells(found.rows[-1].method, found.rows[-1], "")


def ledger_table(found: Ledger) -> Table:
    """For the terminal."""
    table = Table(title=_title(found), box=SIMPLE_HEAD, title_justify="left", padding=0)
    table.add_column("method", no_wrap=True)
    for header in (
        "evals\n/case",
        "{unit}\n/case",
        "x\nbase",
        "paper\nx base",
        "kept for\nbackward",
        "stored\n/reference",
    ):
        table.add_column(header.format(unit=unit_of(found)[0]), justify="right", no_wrap=True)
    for cells in _cells(found):
        table.add_row(*cells)
    return table


def ledger_markdown(found: Ledger) -> str:
    """The same for a page."""
    headers = ("method", *(header.format(unit=unit_of(found)[0]) for header in HEADERS))
    return grid([[cell.strip() for cell in row] for row in (headers, *_cells(found))])


def _title(found: Ledger) -> str:
    scale = found.scale
    return f"{found.model}: k = {scale.neighbors}, {scale.steps} steps, {scale.points} atlas points"


def ledger_lines(found: Ledger) -> list[str]:
    """What the atlas costs before the first case, and what the columns mean."""
    offline, (unit, size) = found.offline, unit_of(found)
    per_reference = offline.per_reference / size
    lines = [
        f"atlas, before the first case: {per_reference:,.1f} {unit} a reference "
        f"({offline.per_reference / found.base.flops:,.1f} x base) and {offline.choosing / size:,.0f} {unit} to choose "
        "the points",
    ]
    if offline.break_even is not None:
        lines.append(
            f"over {found.scale.references:,} references it has cost less than the cheapest ngd after "
            f"{offline.break_even:,} cases"
        )
    return [
        *lines,
        "1 FLOP is one multiplication or one addition of a matrix product or convolution; the question's embedding "
        "and the search for its neighbours are left out",
    ]


def rung_lines(found: Ledger) -> list[str]:
    """What each rung saves."""
    return [f"{rung.method}: {rung.about}" for rung in found.rungs]


def paper_lines() -> list[str]:
    """The paper's Table 4 (MoAI), and why ours differs, a sentence each."""
    return [
        f"{NAMES.get(name, name)}, {cost.tflops} 'TFLOPs' in the paper: {cost.difference}"
        for name, cost in PAPER.items()
    ]
