"""FLOPs per question of each row next to the paper's Table 4; the counts are those of `r2t2 cost`."""

from __future__ import annotations

from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.reproduction.paper import paper_numbers
from r2t2_jax.reproduction.spec import BASE
from r2t2_jax.reproduction.table_data import TableData

DESCENT = "ngd"
PAPER_NAMES = {"kernel_regression_alpha": "kernel_regression"}


def cost(data: TableData) -> dict[str, Any]:
    """FLOPs as multiples of the untouched model's, here and in the paper, and the cost variants of descent."""
    from r2t2_jax.costs.ladder import CostSettings, cost_table
    from r2t2_jax.plugins import load_shapes

    printed = {row["method"]: row["tflops"] for row in paper_numbers()["table4_cost"]}
    paper = {
        name: printed[PAPER_NAMES.get(name, name)] / printed[BASE]
        for name in data.names
        if PAPER_NAMES.get(name, name) in printed
    }
    columns = {"paper, × base": {name: f"{ratio:.2f}" for name, ratio in paper.items()}}
    try:
        counted = cost_table(load_shapes(data.model), CostSettings())
    except R2T2Error as error:
        return {"columns": columns, "notes": [f"FLOPs were not counted: {error}"]}
    measured = {row.method: counted.times_base(row) for row in counted.rows}
    literal, cheapest = (counted.times_base(counted.variants[i]) for i in (0, -1))
    measured[DESCENT] = cheapest
    columns["here, × base"] = {name: f"{measured[name]:.2f}" for name in data.names if name in measured}
    variants = [
        [row.method, f"{row.flops:.3e}", f"{counted.times_base(row):.1f}"] for row in (counted.base, *counted.variants)
    ]
    note = (
        f"The table has the cheapest variant of descent. The literal form costs {literal:.1f} times the untouched "
        f"model, not {paper[DESCENT]:.1f} as in the paper, whose numbers do not match ten steps with five neighbors "
        "(see `r2t2 cost`)."
    )
    title = "Variants of descent, from the literal form to the cheapest"
    table = {"title": title, "head": ["", "FLOPs", "× base"], "rows": variants}
    numbers = {"paper_times_base": paper, "times_base": measured, "literal": literal}
    return {"columns": columns, "tables": [table], "notes": [note], "numbers": numbers}
