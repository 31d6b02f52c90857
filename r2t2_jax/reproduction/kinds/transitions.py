"""The leading expert before and after, by what became of the answer (R2-T2, Figures 4 and 11 to 14).

Axis letters: B test samples, L routed layers, E experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from r2t2_jax.reporting.cases import KINDS
from r2t2_jax.reproduction.found import Found
from r2t2_jax.reproduction.tables import BASE

ROW = "ngd"
FIGURES = dict(zip(KINDS, ("Figures 4a and 11", "Figures 4b and 12", "Figure 13", "Figure 14"), strict=True))


def transitions(found: Found) -> dict[str, Any]:
    """Four tables of counts: rows are the router's leading expert, columns the one after re-routing."""
    experts = found.asked[0].subject.port.model.spec.experts
    pairs = [one.weights(ROW) for one in found.asked]
    before, after = (
        np.concatenate([pair[side] for pair in pairs]).mean(axis=1).argmax(axis=1) for side in (0, 1)
    )  # [B]
    was, became = found.right(BASE), found.right(ROW)
    kinds = {
        "wrong → right": ~was & became,
        "right → wrong": was & ~became,
        "right → right": was & became,
        "wrong → wrong": ~was & ~became,
    }
    tables, numbers = [], {}
    for kind, mine in kinds.items():
        counts = np.zeros((len(experts), len(experts)), int)
        np.add.at(counts, (before[mine], after[mine]), 1)
        rows = [[name, *map(str, row)] for name, row in zip(experts, counts.tolist(), strict=True)]
        title = f"{kind} ({FIGURES[kind]}): {int(mine.sum()):,} answers; rows before, columns after"
        tables.append({"title": title, "head": ["", *experts], "rows": rows})
        numbers[kind] = counts.tolist()
    leads = {
        name: [round(100 * float((side == e).mean()), 1) for side in (before, after)] for e, name in enumerate(experts)
    }
    favourite = max(leads, key=lambda name: leads[name][0])
    moved = 100 * float((before != after).mean())
    note = (
        f"The leading expert changes for {moved:.1f} % of the questions. The router leans on {favourite}: it leads for "
        f"{leads[favourite][0]:.1f} % of them, after re-routing for {leads[favourite][1]:.1f} %. The paper says the "
        "same of MoAI's router and its expert I_LANG."
    )
    return {"tables": tables, "notes": [note], "numbers": {"counts": numbers, "leads": leads, "moved": round(moved, 1)}}
