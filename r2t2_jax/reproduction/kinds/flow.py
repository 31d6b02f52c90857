"""Which answers turn at which step (R2-T2, Figure 5).

Axis letters: B test samples, P points of a path.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool

from r2t2_jax.evaluation.statistics import wilson_interval
from r2t2_jax.reporting.examples import OUTCOMES
from r2t2_jax.reproduction.paper import paper_numbers
from r2t2_jax.reproduction.spec import BASE
from r2t2_jax.reproduction.table_data import TableData

ROW = "ngd"
EARLY = 4  # the step that the paper names


def flow(found: TableData) -> dict[str, Any]:
    """Shares of wrong answers corrected, and of right ones lost, at every step."""
    steps = np.concatenate([one.step_right(ROW) for one in found.asked])  # [B, P]
    last = steps.shape[1] - 1
    shares = {
        "early": _share(~steps[:, 0], steps[:, min(EARLY, last)]),
        "late": _share(~steps[:, 0], steps[:, last]),
        "lost": _share(steps[:, 0], ~steps[:, last]),
    }
    words = {
        "early": f"wrong answers right at step {EARLY}",
        "late": f"wrong answers right at step {last}",
        "lost": f"right answers wrong at step {last}",
    }
    printed = list(paper_numbers()["figure5"].values())
    rows = [
        [
            words[what],
            f"{paper:.2f}",
            f"{one['percent']:.2f} ({one['ci95'][0]:.1f} to {one['ci95'][1]:.1f})",
            str(one["of"]),
        ]
        for (what, one), paper in zip(shares.items(), printed, strict=True)
    ]
    won = [int((~steps[:, 0] & steps[:, p]).sum()) for p in range(last + 1)]
    lost = [int((steps[:, 0] & ~steps[:, p]).sum()) for p in range(last + 1)]
    late = won[-1] - won[min(EARLY, last)]
    note = (
        f"After {EARLY} of {last} steps {won[min(EARLY, last)]:,} wrong answers are right; the steps that follow "
        f"correct {late:,} more."
    )
    head = ["", "paper, %", "here, % (95 % interval)", "of"]
    by_step = {
        "title": "By step",
        "head": ["step", *map(str, range(last + 1))],
        "rows": [["wrong → right", *map(str, won)], ["right → wrong", *map(str, lost)]],
    }
    table = {"title": "Shares", "head": head, "rows": rows}
    return {"tables": [table, by_step], "notes": [note], "numbers": {"shares": shares, "won": won, "lost": lost}}


def _share(of: Bool[np.ndarray, "B"], what: Bool[np.ndarray, "B"]) -> dict[str, Any]:
    """The share of some answers, in percent with a 95 % interval; of none it is zero."""
    total, hits = int(of.sum()), int((of & what).sum())
    low, high = wilson_interval(hits, total) if total else (0.0, 1.0)
    percent = 100 * hits / total if total else 0.0
    return {"percent": round(percent, 2), "ci95": [round(100 * low, 2), round(100 * high, 2)], "of": total}


FIGURES = dict(zip(OUTCOMES, ("Figures 4a and 11", "Figures 4b and 12", "Figure 13", "Figure 14"), strict=True))


def transitions(found: TableData) -> dict[str, Any]:
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
