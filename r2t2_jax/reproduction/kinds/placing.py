"""The model among the other models of the paper's Table 3 and Figure 1, benchmark by benchmark."""

from __future__ import annotations

from typing import Any

from r2t2_jax.reproduction.found import Found
from r2t2_jax.reproduction.kinds.benchmarks import set_score
from r2t2_jax.reproduction.paper import COLUMN_OF, paper_rows

OTHERS, METHODS = "table3_other_models", "table2"


def placing(found: Found) -> dict[str, Any]:
    """The paper's rows with ours among them, and our place on every benchmark that both were asked."""
    columns = list(COLUMN_OF.values())
    others = paper_rows(OTHERS) | {f"{name} (paper)": row for name, row in paper_rows(METHODS).items()}
    ours = {
        f"{found.asked[0].subject.port.name} {name} (here)": {
            COLUMN_OF[one.subject.data]: set_score(one, name) for one in found.asked if one.subject.data in COLUMN_OF
        }
        for name in found.names
    }
    rows = [[name, *(_number(row.get(column)) for column in columns)] for name, row in (others | ours).items()]
    table = {"title": "Every model's score", "head": ["", *columns], "rows": rows}
    places = {
        name: {
            column: 1 + sum(row.get(column, 0.0) > score for row in others.values()) for column, score in row.items()
        }
        for name, row in ours.items()
    }
    if not any(places.values()):
        note = (
            "None of the sets asked here is among the paper's benchmarks, so there is no place to give: only the gain "
            "over the untouched model compares."
        )
    else:
        told = [
            f"{name}: " + ", ".join(f"{place} of {len(others) + 1} on {column}" for column, place in row.items())
            for name, row in places.items()
        ]
        note = "Places: " + "; ".join(told) + "."
    return {"tables": [table], "notes": [note], "numbers": {"places": places, "scores": ours}}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
