"""What a reproduction would take, from the model's shapes alone: no weights, no data, nothing allocated.

Every program that the tables need is traced at the model's full shapes, which also shows that it can be built.

Axis letters: K neighbours, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from r2t2_jax.contract import ModelShapes, Query, References
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.method.presets import PAPER as PAPER_PRESET
from r2t2_jax.method.rerouting import canonicalize, reroute_sample
from r2t2_jax.method.search.mode_finding import ModeFinding
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.reporting.costs import counted
from r2t2_jax.reporting.tables import markdown_table
from r2t2_jax.reproduction.paper import COLUMN_OF, paper_numbers
from r2t2_jax.reproduction.plan import Measurement, TargetPlan, plan_rows
from r2t2_jax.reproduction.spec import PAPER, Table
from r2t2_jax.runtime.memory import format_size, tree_bytes

MERGED = {"cvbench2d": 1438, "cvbench3d": 1200}  # the paper's Table 1 counts both together
REFERENCES = 5000  # of a set, at most


@dataclass(frozen=True)
class RowCost:
    """Of one question: evaluations and FLOPs; `None` for what was not traced."""

    evaluations: int | None
    flops: int | None


@dataclass(frozen=True)
class Estimate:
    """What a reproduction takes.

    Args:
        questions: in all sets.
        costs: of every distinct row, by its label.
        plan: of one set.
        parameters, features: bytes of the model, and of what is computed of one question or reference.
    """

    questions: int
    costs: dict[str, RowCost]
    plan: TargetPlan
    parameters: int
    features: int

    @property
    def flops(self) -> int:
        """Of all rows that were traced, for all questions."""
        return self.questions * sum(cost.flops or 0 for cost in self.costs.values())

    @property
    def untraced(self) -> list[str]:
        """Rows which read an atlas, change the image, or answer in some other way."""
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
    """The costs of some tables under the paper's settings.

    Args:
        shapes: of the model.
        tables: what is wanted.
        questions: how many are asked, in all sets.
    """
    plan = plan_rows(shapes.name, {PAPER: PAPER_PRESET}, questions, tables, questions)
    known: dict[Any, RowCost] = {}
    costs = {}
    for label, one in plan.measurements.items():
        key = _shape_of(one)
        if key not in known:
            known[key] = _cost(shapes, one)
        costs[label] = known[key]
    return Estimate(questions, costs, plan, tree_bytes(shapes.params), tree_bytes(shapes.features))


def _shape_of(one: Measurement) -> Any:
    """What decides the cost: the program, and how many neighbours it is given."""
    if not isinstance(one.method, Strategy):
        return one.label
    return jax.tree.structure(canonicalize(one.method)), getattr(one.method.selector, "k", 0)


def _cost(shapes: ModelShapes, one: Measurement) -> RowCost:
    method = one.method
    if (
        not isinstance(method, Strategy)
        or method.atlas is not None
        or method.augmentations is not None
        or method.memory_strategy
    ):
        return RowCost(None, None)
    query, references = abstract_query(shapes), abstract_references(shapes, method)
    traced, found = jax.make_jaxpr(
        lambda params, query, references, key: reroute_sample(
            canonicalize(method), shapes.model, params, query, references, key
        ),
        return_shape=True,
    )(shapes.params, query, references, jax.eval_shape(lambda: jax.random.key(0)))
    costs = shapes.costs
    own = 0 if costs is None else costs.prepare_flops + costs.encode_flops + costs.answer_flops
    return RowCost(found.evaluations, own + count_flops(traced))


def _floats(*shape: int) -> Any:
    """Stands where an array belongs; nothing is allocated."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def abstract_query(shapes: ModelShapes) -> Query:
    """A test sample as shapes."""
    routing = _floats(*shapes.model.spec.shape)
    live: Any = jax.ShapeDtypeStruct(shapes.model.spec.shape, bool)
    return Query(shapes.features, routing, live, shapes.answer, task_routing=routing, finetuned_routing=routing)


def abstract_references(shapes: ModelShapes, method: Strategy) -> References:
    """The neighbourhood that a strategy asks for, as shapes."""
    spec = shapes.model.spec.shape
    bank = _floats(REFERENCES, *spec) if isinstance(method.search, ModeFinding) else None
    if method.selector is None:
        return References(bank)
    k = method.selector.k
    features, answers = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((k, *leaf.shape), leaf.dtype), (shapes.features, shapes.answer)
    )
    return References(bank, features, answers, _floats(k, *spec), _floats(k))


SUSTAINED = 1e14  # FLOP/s that a large accelerator keeps up in bfloat16, by whose price hours are reckoned
HOUR = 3600
REFERENCE_SETS = 9  # of the paper


def estimate_markdown(name: str, found: Estimate, tables: Sequence[Table]) -> str:
    """A row for each table, and the memory that goes with it."""
    head = ["table", "distinct rows", "evaluations a question", "FLOPs a question", "hours"]
    lines = [*(_line(table.name, found, found.of_table(table.name)) for table in tables)]
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
    return "\n\n".join([f"## What it takes on {name}", markdown_table(head, lines, align_right=True), *notes]) + "\n"


def _line(name: str, found: Estimate, labels: Sequence[str]) -> list[str]:
    costs = [found.costs[label] for label in labels]
    flops = sum(cost.flops or 0 for cost in costs)
    evaluations = sum(cost.evaluations or 0 for cost in costs)
    hours = found.questions * flops / SUSTAINED / HOUR
    return [name, str(len(labels)), f"{evaluations:,}", counted(flops), f"{hours:,.3g}"]
