"""What an evaluation would do and cost, as `r2t2 eval --dry-run` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from r2t2_jax.sizes import format_size

if TYPE_CHECKING:
    from r2t2_jax.evaluation.forecast import Forecast
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
        f"{format_size(memory.parameters)}, activations {format_size(memory.activations)} of {memory.abreast} abreast, "
        f"{format_size(memory.case)} a question"
    )


def counted(number: int) -> str:
    """Three digits: `1.23 T`."""
    for step, letter in STEPS:
        if number >= step:
            return f"{number / step:.3g} {letter}"
    return f"{number:,}"
