"""The cost of a reproduction, predicted from the model's shapes: no weights, no data, nothing allocated.

Every program that the tables need is traced at the model's full shapes, which also shows that it can be built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from r2t2_jax.contract import ModelShapes
from r2t2_jax.costs.ladder import count_passes
from r2t2_jax.costs.memory import format_size
from r2t2_jax.costs.prediction import REFERENCES, CostPrediction, abstract_batch
from r2t2_jax.method.presets import PAPER as PAPER_PRESET
from r2t2_jax.method.rerouting import canonicalize
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.reporting.costs import format_count
from r2t2_jax.reporting.tables import markdown_table
from r2t2_jax.reproduction.paper import COLUMN_OF, paper_numbers
from r2t2_jax.reproduction.plan import Measurement, TargetPlan, plan_rows
from r2t2_jax.reproduction.spec import PAPER, Table
from r2t2_jax.runtime.pytrees import tree_bytes

MERGED = {"cvbench2d": 1438, "cvbench3d": 1200}  # the paper's Table 1 gives only the sum


@dataclass(frozen=True)
class RowCost:
    """Evaluations and FLOPs of one question; `None` for a row that was not traced."""

    evaluations: int | None
    flops: int | None


@dataclass(frozen=True)
class Estimate:
    """The cost of a reproduction.

    Args:
        questions: in all sets.
        costs: of every distinct row, by its label.
        plan: of one set.
        parameters: bytes of the model.
        features: bytes of the features of one question or reference.
    """

    questions: int
    costs: dict[str, RowCost]
    plan: TargetPlan
    parameters: int
    features: int

    @property
    def flops(self) -> int:
        """FLOPs of all traced rows, for all questions."""
        return self.questions * sum(cost.flops or 0 for cost in self.costs.values())

    @property
    def untraced(self) -> list[str]:
        """Rows that read an atlas, change the image, or do not re-route."""
        return [label for label, cost in self.costs.items() if cost.flops is None]

    def of_table(self, name: str) -> list[str]:
        """The labels of a table's rows."""
        cells = [cell for (table, _), rows in self.plan.rows.items() if table == name for cell in rows]
        return list(dict.fromkeys(cell.label for cell in cells if cell.label))


def set_sizes() -> dict[str, int]:
    """Questions of the paper's benchmarks, by our names of the sets."""
    printed = paper_numbers()["table1_sizes"]["evaluation"]
    return {name: printed.get(column) or MERGED[name] for name, column in COLUMN_OF.items()}


def estimate(shapes: ModelShapes, tables: Sequence[Table], questions: int) -> Estimate:
    """The costs of tables under the paper's settings.

    Args:
        shapes: of the model.
        tables: to reproduce.
        questions: in all sets.
    """
    plan = plan_rows(shapes.name, {PAPER: PAPER_PRESET}, questions, tables, questions)
    own = 0
    if shapes.costs is not None:
        passes = count_passes(shapes)
        own = passes.own + passes.answer
    by_program: dict[Any, RowCost] = {}
    costs = {}
    for label, measurement in plan.measurements.items():
        program = _program_of(measurement)
        if program not in by_program:
            by_program[program] = _cost(shapes, measurement, own)
        costs[label] = by_program[program]
    return Estimate(questions, costs, plan, tree_bytes(shapes.params), tree_bytes(shapes.features))


def _program_of(measurement: Measurement) -> Any:
    """A key that measurements of the same cost share: the structure of the program and the number of neighbors."""
    method = measurement.method
    if not isinstance(method, Strategy):
        return measurement.label
    return jax.tree.structure(canonicalize(method)), getattr(method.selector, "k", 0)


def _cost(shapes: ModelShapes, measurement: Measurement, own: int) -> RowCost:
    """The cost of a row; `own` are the FLOPs of encoding a question and answering it."""
    method = measurement.method
    if not isinstance(method, Strategy) or method.atlas or method.augmentations or method.memory_strategy:
        return RowCost(None, None)
    cost = CostPrediction(method, shapes.model, shapes.params, abstract_batch(shapes, method)).cost
    return RowCost(cost.evaluations, own + cost.flops)


SUSTAINED = 1e14  # FLOP/s that a large accelerator sustains in bfloat16; hours are computed from it
HOUR = 3600
REFERENCE_SETS = 9  # of the paper


def estimate_markdown(name: str, estimate: Estimate, tables: Sequence[Table]) -> str:
    """A row for each table, and the memory."""
    head = ["table", "distinct rows", "evaluations per question", "FLOPs per question", "hours"]
    lines = [_line(table.name, estimate, estimate.of_table(table.name)) for table in tables]
    lines.append(_line("all, shared rows once", estimate, list(estimate.costs)))
    references = REFERENCES * REFERENCE_SETS
    notes = [
        f"{estimate.questions:,} questions under the paper's settings. Hours are for one accelerator that sustains "
        f"{format_count(int(SUSTAINED))}FLOP/s; nothing was measured.",
        f"Memory: parameters {format_size(estimate.parameters)}, and {format_size(estimate.features)} per question "
        "and neighbor of a block (--block questions with k neighbors each; `r2t2 fit` reports more). "
        f"The bank of {references:,} references stores no features by default: they would take "
        f"{format_size(references * estimate.features)}, and are computed again for the neighbors of a block.",
    ]
    if estimate.untraced:
        notes.append(f"Not counted, since they are not one program: {', '.join(estimate.untraced)}.")
    return "\n\n".join([f"## Cost on {name}", markdown_table(head, lines, align_right=True), *notes]) + "\n"


def estimate_record(name: str, estimate: Estimate, tables: Sequence[Table]) -> dict[str, Any]:
    """The estimate as JSON values: rows, evaluations and FLOPs of each table, per question."""
    rows = {table.name: estimate.of_table(table.name) for table in tables}
    return {
        "model": name,
        "questions": estimate.questions,
        "tables": {table: _totals(estimate, labels) for table, labels in rows.items()},
        "all": _totals(estimate, list(estimate.costs)),
        "parameter_bytes": estimate.parameters,
        "feature_bytes": estimate.features,
        "not_counted": estimate.untraced,
    }


def _totals(estimate: Estimate, labels: Sequence[str]) -> dict[str, int]:
    costs = [estimate.costs[label] for label in labels]
    return {
        "rows": len(labels),
        "evaluations": sum(cost.evaluations or 0 for cost in costs),
        "flops": sum(cost.flops or 0 for cost in costs),
    }


def _line(name: str, estimate: Estimate, labels: Sequence[str]) -> list[str]:
    totals = _totals(estimate, labels)
    hours = estimate.questions * totals["flops"] / SUSTAINED / HOUR
    return [
        name,
        str(len(labels)),
        f"{totals['evaluations']:,}",
        format_count(totals["flops"]),
        f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}",
    ]
