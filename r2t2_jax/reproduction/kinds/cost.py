"""What a row costs a case in FLOPs, beside the paper's Table 4; the counts are those of `r2t2 cost`."""

from __future__ import annotations

from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.reproduction.paper import paper_numbers
from r2t2_jax.reproduction.spec import BASE
from r2t2_jax.reproduction.table_data import TableData

DESCENT = "ngd"
PAPER_NAMES = {"kernel_regression_alpha": "kernel_regression"}


def cost(found: TableData) -> dict[str, Any]:
    """FLOPs as multiples of the untouched model's, here and in the paper; descent rung by rung."""
    from r2t2_jax.costs.ladder import Scale, ledger
    from r2t2_jax.plugins import load_shapes

    printed = {row["method"]: row["tflops"] for row in paper_numbers()["table4_cost"]}
    paper = {
        name: printed[PAPER_NAMES.get(name, name)] / printed[BASE]
        for name in found.names
        if PAPER_NAMES.get(name, name) in printed
    }
    columns = {"paper, × base": {name: f"{ratio:.2f}" for name, ratio in paper.items()}}
    try:
        counted = ledger(load_shapes(found.model), Scale())
    except R2T2Error as error:
        return {"columns": columns, "notes": [f"FLOPs were not counted: {error}"]}
    ours = {row.method: counted.times_base(row) for row in counted.rows}
    ours[DESCENT] = counted.times_base(counted.rungs[-1])
    columns["here, × base"] = {name: f"{ours[name]:.2f}" for name in found.names if name in ours}
    rungs = [
        [row.method, f"{row.flops:.3e}", f"{counted.times_base(row):.1f}"] for row in (counted.base, *counted.rungs)
    ]
    note = (
        f"Descent is counted in its cheapest form here; written as in the paper it costs "
        f"{counted.times_base(counted.rungs[0]):.1f} times the untouched model, not {paper[DESCENT]:.1f}. "
        "The paper's rows are not the cost of ten real steps with five neighbours (`r2t2 cost` says more)."
    )
    table = {"title": "Descent, from the literal form to the cheapest", "head": ["", "FLOPs", "× base"], "rows": rungs}
    numbers = {"paper_times_base": paper, "times_base": ours, "literal": counted.times_base(counted.rungs[0])}
    return {"columns": columns, "tables": [table], "notes": [note], "numbers": numbers}
