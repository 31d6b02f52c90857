"""Tables of costs for the terminal, at most 80 columns wide, and as Markdown: `r2t2 cost`, `r2t2 fit`, dry runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import jax
from rich.box import SIMPLE_HEAD
from rich.table import Table

from r2t2_jax.contract import Params
from r2t2_jax.costs.ladder import WRITTEN, CostTable, MethodCost
from r2t2_jax.costs.memory import MAX_NEIGHBORS, MAX_SAMPLES, LargestSizes, format_size
from r2t2_jax.costs.prediction import MemoryUse
from r2t2_jax.reporting.tables import markdown_table
from r2t2_jax.runtime.pytrees import tree_bytes

if TYPE_CHECKING:
    from r2t2_jax.evaluation.dry_run import DryRun
    from r2t2_jax.evaluation.planning import PlannedEvaluation


class PaperCost(NamedTuple):
    """A row of the paper's Table 4.

    Args:
        tflops: as printed.
        accuracy: on MMBench, between 0 and 1.
        difference: why ours differs.
    """

    tflops: float
    accuracy: float
    difference: str


PAPER = {  # by the name of our row
    WRITTEN: PaperCost(
        9.9,
        0.793,
        "Counts a multiply-add once where we count a multiplication and an addition; the paper does not explain the "
        "rest of the difference.",
    ),
    "mode_finding": PaperCost(
        10.7,
        0.808,
        "0.08 passes more than the base: the second pass, which answers under the new weights, is not counted.",
    ),
    "kernel_regression_alpha": PaperCost(
        61.9,
        0.837,
        "5.25 passes more than the base: one pass for each of five neighbors, where a search for alpha with ten "
        "evaluations takes fifty.",
    ),
    "ngd": PaperCost(
        67.5,
        0.852,
        "5.8 passes more than the base: ten steps with five neighbors are fifty forward and fifty backward passes, so "
        "nine steps of ten and every backward pass are not counted.",
    ),
    "oracle": PaperCost(
        11.8,
        0.898,
        "0.2 passes more than the base: ten gradients of the question's own loss take more than twenty passes.",
    ),
}


def paper_times_base(method: str) -> float | None:
    """A row of the paper's table in units of its base; `None` if it has no such row."""
    return PAPER[method].tflops / PAPER[WRITTEN].tflops if method in PAPER else None


def is_papers(table: CostTable) -> bool:
    """Whether the paper's Table 4 is about these costs: of MoAI, with its numbers of neighbors and steps."""
    settings = table.settings
    return table.model.partition(":")[0] == "moai" and (settings.neighbors, settings.steps) == (5, 10)


NAMES = {WRITTEN: "base, as written"}
PAPER_HEADER = "paper, x base"
HEADERS = ("evaluations", "{unit} per sample", "x base", PAPER_HEADER, "kept for backward", "stored per reference")
UNITS = (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))


def unit_of(table: CostTable) -> tuple[str, float]:
    """The largest unit in which the base costs at least one."""
    return next((unit for unit in UNITS if table.base.flops >= unit[1]), UNITS[-1])


def _cells(table: CostTable) -> Iterator[tuple[str, ...]]:
    """One row per method, the variants of NGD before the atlas: each keeps the savings of those above it."""

    def cells(name: str, row: MethodCost, paper: str) -> tuple[str, ...]:
        ratio = paper_times_base(paper)
        return (
            name,
            f"{row.evaluations:,}",
            f"{row.flops / unit_of(table)[1]:,.1f}",
            f"{table.times_base(row):,.2f}",
            *(("-" if ratio is None else f"{ratio:.2f}",) if is_papers(table) else ()),
            "-" if row.activations is None else format_size(row.activations),
            format_size(row.stored) if row.stored else "-",
        )

    for row in table.rows[:-1]:
        yield cells(NAMES.get(row.method, row.method), row, row.method)
    for number, variant in enumerate(table.variants):
        name = f"  + {variant.method}" if number else f"ngd, {variant.method}"
        yield cells(name, variant, "" if number else "ngd")
    yield cells(table.rows[-1].method, table.rows[-1], "")


def method_table(table: CostTable) -> Table:
    """For the terminal."""
    scale = table.settings
    title = f"{table.model}: k = {scale.neighbors}, {scale.steps} steps, {scale.points} atlas points"
    result = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=0)
    result.add_column("method", no_wrap=True)
    for header in (
        "evals\n/sample",
        "{unit}\n/sample",
        "x\nbase",
        *(("paper\nx base",) if is_papers(table) else ()),
        "kept for\nbackward",
        "stored\n/reference",
    ):
        result.add_column(header.format(unit=unit_of(table)[0]), justify="right", no_wrap=True)
    for cells in _cells(table):
        result.add_row(*cells)
    return result


def method_markdown(table: CostTable) -> str:
    """The same as Markdown."""
    shown = [header for header in HEADERS if header != PAPER_HEADER or is_papers(table)]
    headers = ("method", *(header.format(unit=unit_of(table)[0]) for header in shown))
    rows = [[cell.strip() for cell in row] for row in _cells(table)]
    return markdown_table(headers, rows, align_right=True)


def dtype_line(params: Params) -> str:
    """The dtypes of a model's parameters, in which memory is counted, the one with the most bytes first."""
    sizes: Counter[str] = Counter()
    for leaf in jax.tree.leaves(params):
        sizes[str(leaf.dtype)] += tree_bytes(leaf)
    return f"dtype of the parameters: {', '.join(name for name, _ in sizes.most_common())}"


def cost_notes(table: CostTable) -> list[str]:
    """The cost of the atlas before the first sample, the parts of the base, and what the columns mean."""
    building, (unit, size) = table.building, unit_of(table)
    lines = [
        f"atlas, before the first sample: {building.per_reference / size:,.1f} {unit} per reference "
        f"({building.per_reference / table.base.flops:,.1f} x base) and {building.choosing / size:,.0f} {unit} to "
        "choose the points",
    ]
    if building.break_even is not None:
        lines.append(
            f"with {table.settings.references:,} references, building and using the atlas costs less in total than the "
            f"cheapest ngd from {building.break_even:,} samples on"
        )
    if parts := part_shares(table):
        lines.append("base, as written, by part: " + ", ".join(f"{name} {share:.1%}" for name, share in parts))
    return [
        *lines,
        "1 FLOP is one multiplication or one addition of a matrix product, convolution or triangular system; the "
        "embedding of the question and the search for its neighbors are not counted",
    ]


OTHER = "other"


def part_shares(table: CostTable) -> list[tuple[str, float]]:
    """The parts of the naive base by the outermost scope of the port, and their share of its FLOPs, largest first."""
    parts: Counter[str] = Counter()
    for scopes, flops in table.parts.items():
        name = scopes[0] if scopes else OTHER
        parts[OTHER if "->" in name else name] += flops  # einsum names its own scope after its subscripts
    return [(name, flops / table.parts.total()) for name, flops in parts.most_common()]


def variant_lines(table: CostTable) -> list[str]:
    """The savings of each variant of NGD."""
    return [f"{variant.method}: {variant.about}" for variant in table.variants]


def paper_lines() -> list[str]:
    """The rows of the paper's Table 4 (MoAI), and why ours differ."""
    return [
        f"{NAMES.get(name, name)}, {cost.tflops} 'TFLOPs' in the paper: {cost.difference}"
        for name, cost in PAPER.items()
    ]


STEPS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def plan_lines(planned: PlannedEvaluation) -> Iterator[str]:
    """Model, bank, benchmarks and strategies of an evaluation, and what its folder holds of it already."""
    bank, port = planned.bank, planned.port
    yield f"model       {port.name} ({port.fingerprint})"
    if bank is None:
        yield f"references  those of {port.name}, answered when the run begins"
    else:
        yield f"references  {len(bank):,}, {int(bank.right.sum()):,} of them answered correctly"
    for name, questions in planned.benchmarks.items():
        count, missing = len(questions.samples), planned.missing[name]
        batches = -(-count // planned.batch)
        split = f" {questions.source.split}" if questions.source.split else ""
        line = f"benchmark   {name}{split}: {count:,} questions in {batches:,} batches, metric {questions.metric}"
        yield line + (f", {count - missing:,} questions already answered" if missing < count else "")
    if not planned.strategies:
        yield "to do       nothing: the run is complete"
    elif planned.recorded:
        yield f"recorded    {', '.join(planned.recorded)}: not computed again"
    yield f"saved       every {planned.batch} questions, all strategies together"


def dry_run_table(planned: PlannedEvaluation, dry_run: DryRun) -> Table:
    """One row per strategy: evaluations, encoded references and FLOPs per sample; dashes for baselines."""
    n = sum(planned.missing.values())
    table = Table(title=f"Cost of {n:,} questions", box=SIMPLE_HEAD, title_justify="left", padding=0)
    table.add_column("strategy", no_wrap=True)
    for header in ("evaluations\n/sample", "references\nencoded", "FLOPs\n/sample", "FLOPs\nin total"):
        table.add_column(header, justify="right", no_wrap=True)
    for name in planned.strategies:
        cost = dry_run.costs.get(name)
        if cost is None:
            table.add_row(name, "-", "-", "-", "-")
        else:
            flops = format_count(cost.flops), format_count(n * cost.flops)
            table.add_row(name, f"{cost.evaluations:,}", f"{cost.encodings:,}", *flops)
    return table


def memory_line(planned: PlannedEvaluation, dry_run: DryRun) -> str:
    """Memory of the most expensive strategy; an upper bound where no program was compiled for it."""
    memory, most = dry_run.memory, "" if dry_run.memory.compiled else "at most "
    return (
        f"memory      {most}{format_size(memory.of_batch(planned.batch))} with {planned.batch} questions at a time: "
        f"parameters {format_size(memory.parameters)}, activations of {dry_run.strategy} "
        f"{most}{format_size(memory.activations)} "
        f"(vmap size {memory.vmap_size}), {format_size(memory.per_sample)} per question"
    )


def format_count(number: int) -> str:
    """Three digits: `1.23 T`."""
    for step, letter in STEPS:
        if number >= step:
            return f"{number / step:.3g} {letter}"
    return f"{number:,}"


def memory_table(title: str, sizes: LargestSizes) -> Table:
    """Memory of a batch: one row for each number of neighbors, the largest batch last."""
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=0)
    for header in ("neighbors\nk", "batch\nB", "parameters", "neighbors'\nfeatures", "samples", "activations", "total"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in (*sizes.examples, sizes.samples):
        columns = (row.parameters, row.references, row.queries, row.activations, row.total)
        about = "" if row.compiled else "~"
        table.add_row(
            f"{row.neighbors:,}",
            f"{row.samples:,}",
            *map(format_size, columns[:3]),
            *(about + format_size(size) for size in columns[3:]),
        )
    return table


def size_lines(sizes: LargestSizes) -> list[str]:
    """The largest k and the largest batch."""
    k, batch = sizes.neighbors.neighbors, sizes.samples
    return [
        f"largest k for a batch of one: {k:,}{_limit(k == MAX_NEIGHBORS)}",
        f"largest batch with k={batch.neighbors}: {batch.samples:,}{_limit(batch.samples == MAX_SAMPLES)}",
    ]


def _limit(reached: bool) -> str:
    return " (the search ends here; more would fit)" if reached else ""


def memory_record(memory: MemoryUse) -> dict[str, int | bool]:
    """Ready for JSON, in bytes."""
    return {
        "k": memory.neighbors,
        "batch": memory.samples,
        "parameters": memory.parameters,
        "neighbor_features": memory.references,
        "samples": memory.queries,
        "activations": memory.activations,
        "total": memory.total,
        "compiled": memory.compiled,
    }
