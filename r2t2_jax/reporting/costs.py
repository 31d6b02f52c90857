"""A cost ledger in print: a table for the terminal, readable at 80 columns, the same as Markdown, and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from r2t2_jax.costs.ladder import WRITTEN, Ledger, Row
from r2t2_jax.costs.memory import MOST_NEIGHBORS, MOST_SAMPLES, Fit, Footprint
from r2t2_jax.reporting.tables import markdown_table
from r2t2_jax.runtime.memory import format_size


class PaperCost(NamedTuple):
    """A row of the table.

    Args:
        tflops: as printed.
        accuracy: on MMBench, as a share.
        difference: why ours differs.
    """

    tflops: float
    accuracy: float
    difference: str


PAPER = {  # by the name of our row
    WRITTEN: PaperCost(
        9.9,
        0.793,
        "Counts a multiply-add once where we count a multiplication and an addition; what is left of the difference "
        "is not said.",
    ),
    "mode_finding": PaperCost(
        10.7,
        0.808,
        "Eight hundredths of a pass more than the base: the second pass is left out, which answers under the new "
        "weights.",
    ),
    "kernel_regression_alpha": PaperCost(
        61.9,
        0.837,
        "5.25 passes more than the base: one pass for each of five neighbours, where a search for alpha that "
        "looks ten times takes fifty.",
    ),
    "ngd": PaperCost(
        67.5,
        0.852,
        "5.8 passes more than the base: ten steps with five neighbours are fifty passes forwards and fifty "
        "backwards, so nine steps of ten and every backward pass are left out.",
    ),
    "oracle": PaperCost(
        11.8,
        0.898,
        "A fifth of a pass more than the base: ten gradients of the question's own loss take twenty passes and more.",
    ),
}


def times_base(method: str) -> float | None:
    """A row of the table in units of its base; `None` where it has no such row."""
    return PAPER[method].tflops / PAPER[WRITTEN].tflops if method in PAPER else None


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
    rows = [[cell.strip() for cell in row] for row in _cells(found)]
    return markdown_table([header.strip() for header in headers], rows, align_right=True)


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


if TYPE_CHECKING:
    from r2t2_jax.evaluation.dry_run import Forecast
    from r2t2_jax.evaluation.job import Job

STEPS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def plan_lines(job: Job) -> Iterator[str]:
    """What would be asked of whom."""
    bank, port = job.bank, job.port
    yield f"model       {port.name} ({port.fingerprint})"
    yield f"references  {len(bank):,}, {int(bank.right.sum()):,} of them answered correctly"
    for name, one in job.benchmarks.items():
        batches = -(-len(one.samples) // job.batch)
        split = f" {one.source.split}" if one.source.split else ""
        yield f"benchmark   {name}{split}: {len(one.samples):,} questions in {batches:,} batches, metric {one.metric}"
    yield f"saved       every {job.batch} questions, all strategies together"


def cost_table(job: Job, found: Forecast) -> Table:
    """One row a strategy: passes and FLOPs of a case, and of all; dashes for baselines, which are not traced."""
    n = sum(len(one.samples) for one in job.benchmarks.values())
    table = Table(title=f"Cost of {n:,} questions", box=SIMPLE_HEAD, title_justify="left", padding=0)
    table.add_column("strategy", no_wrap=True)
    for header in ("evaluations\n/case", "FLOPs\n/case", "FLOPs\nin all"):
        table.add_column(header, justify="right", no_wrap=True)
    for name in job.strategies:
        cost = found.costs.get(name)
        told = ("-",) * 3 if cost is None else (f"{cost.evaluations:,}", counted(cost.flops), counted(n * cost.flops))
        table.add_row(name, *told)
    return table


def memory_line(job: Job, found: Forecast) -> str:
    """Memory of the costliest strategy, read off its compiled program."""
    memory = found.memory
    return (
        f"memory      {format_size(memory.of_batch(job.batch))} with {job.batch} questions at a time: parameters "
        f"{format_size(memory.parameters)}, activations {format_size(memory.activations)} of {memory.vmap_size} abreast, "
        f"{format_size(memory.case)} a question"
    )


def counted(number: int) -> str:
    """Three digits: `1.23 T`."""
    for step, letter in STEPS:
        if number >= step:
            return f"{number / step:.3g} {letter}"
    return f"{number:,}"


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
