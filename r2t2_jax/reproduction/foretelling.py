"""What a reproduction would take, as `r2t2 reproduce --dry-run` prints it."""

from __future__ import annotations

from collections.abc import Sequence

from r2t2_jax.reporting.forecast import counted
from r2t2_jax.reporting.text_tables import grid
from r2t2_jax.reproduction.estimate import REFERENCES, Estimate
from r2t2_jax.reproduction.tables import Table
from r2t2_jax.sizes import format_size

SUSTAINED = 1e14  # FLOP/s that a large accelerator keeps up in bfloat16, by whose price hours are reckoned
HOUR = 3600
REFERENCE_SETS = 9  # of the paper


def estimate_markdown(name: str, found: Estimate, tables: Sequence[Table]) -> str:
    """A row for each table, and the memory that goes with it."""
    head = ["table", "distinct rows", "evaluations a question", "FLOPs a question", "hours"]
    lines = [head, *(_line(table.name, found, found.of_table(table.name)) for table in tables)]
    lines.append(_line("all, shared rows once", found, list(found.costs)))
    references = REFERENCES * REFERENCE_SETS
    notes = [
        f"{found.questions:,} questions under the paper's settings. Hours are those of one accelerator that keeps up "
        f"{counted(int(SUSTAINED))}FLOP/s; nothing was measured.",
        f"Memory: parameters {format_size(found.parameters)}, and {format_size(found.features)} for each question and "
        "each neighbour of the block that is asked (--block questions with k neighbours each; `r2t2 fit` tells more). "
        f"The bank of {references:,} references keeps no features unless asked to: they would take "
        f"{format_size(references * found.features)}, and are computed again for the neighbours of a block.",
    ]
    if found.untraced:
        notes.append(f"Not counted, since they are not one program: {', '.join(found.untraced)}.")
    return "\n\n".join([f"## What it takes on {name}", grid(lines), *notes]) + "\n"


def _line(name: str, found: Estimate, labels: Sequence[str]) -> list[str]:
    costs = [found.costs[label] for label in labels]
    flops = sum(cost.flops or 0 for cost in costs)
    evaluations = sum(cost.evaluations or 0 for cost in costs)
    hours = found.questions * flops / SUSTAINED / HOUR
    return [name, str(len(labels)), f"{evaluations:,}", counted(flops), f"{hours:,.3g}"]
