"""Transitions of answers by step (R2-T2, Figure 5), and of the leading expert (Figures 4 and 11 to 14).

Axis letters: B test samples, P points of a path.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool

from r2t2_jax.evaluation.statistics import wilson_interval
from r2t2_jax.methods import BASE
from r2t2_jax.reporting.examples import OUTCOMES
from r2t2_jax.reproduction.paper import paper_numbers
from r2t2_jax.reproduction.table_data import TableData

ROW = "ngd"
EARLY = 4  # the step that the paper reports
FIGURES = dict(zip(OUTCOMES, ("Figures 4a and 11", "Figures 4b and 12", "Figure 13", "Figure 14"), strict=True))


def flow(data: TableData) -> dict[str, Any]:
    """The shares of wrong answers corrected and of right answers lost, and the counts at every step."""
    steps = np.concatenate([target.step_right(ROW) for target in data.targets])  # [B, P]
    last = steps.shape[1] - 1
    shares = {
        "early": _share(~steps[:, 0], steps[:, min(EARLY, last)]),
        "late": _share(~steps[:, 0], steps[:, last]),
        "lost": _share(steps[:, 0], ~steps[:, last]),
    }
    labels = {
        "early": f"wrong answers right at step {EARLY}",
        "late": f"wrong answers right at step {last}",
        "lost": f"right answers wrong at step {last}",
    }
    printed = list(paper_numbers()["figure5"].values())
    rows = [
        [
            labels[key],
            f"{paper:.2f}",
            f"{share['percent']:.2f} ({share['ci95'][0]:.1f} to {share['ci95'][1]:.1f})",
            str(share["of"]),
        ]
        for (key, share), paper in zip(shares.items(), printed, strict=True)
    ]
    corrected = [int((~steps[:, 0] & steps[:, p]).sum()) for p in range(last + 1)]
    lost = [int((steps[:, 0] & ~steps[:, p]).sum()) for p in range(last + 1)]
    late = corrected[-1] - corrected[min(EARLY, last)]
    note = (
        f"After {EARLY} of {last} steps {corrected[min(EARLY, last)]:,} wrong answers are right; the later "
        f"steps correct {late:,} more."
    )
    head = ["", "paper, %", "here, % (95 % interval)", "of"]
    by_step = {
        "title": "By step",
        "head": ["step", *map(str, range(last + 1))],
        "rows": [["wrong → right", *map(str, corrected)], ["right → wrong", *map(str, lost)]],
    }
    table = {"title": "Shares", "head": head, "rows": rows}
    numbers = {"shares": shares, "corrected": corrected, "lost": lost}
    return {"tables": [table, by_step], "notes": [note], "numbers": numbers}


def _share(population: Bool[np.ndarray, "B"], condition: Bool[np.ndarray, "B"]) -> dict[str, Any]:
    """The share of a population that fulfills a condition, in percent with a 95 % interval; zero if it is empty."""
    total, hits = int(population.sum()), int((population & condition).sum())
    low, high = wilson_interval(hits, total) if total else (0.0, 1.0)
    percent = 100 * hits / total if total else 0.0
    return {"percent": round(percent, 2), "ci95": [round(100 * low, 2), round(100 * high, 2)], "of": total}


def transitions(data: TableData) -> dict[str, Any]:
    """Four tables of counts: a row for the router's leading expert, a column for the one after re-routing."""
    experts = data.targets[0].target.port.model.spec.experts
    pairs = [target.weights(ROW) for target in data.targets]
    before, after = (
        np.concatenate([pair[side] for pair in pairs]).mean(axis=1).argmax(axis=1) for side in (0, 1)
    )  # [B]
    right_before, right_after = data.right(BASE), data.right(ROW)
    kinds = {
        "wrong → right": ~right_before & right_after,
        "right → wrong": right_before & ~right_after,
        "right → right": right_before & right_after,
        "wrong → wrong": ~right_before & ~right_after,
    }
    tables, numbers = [], {}
    for kind, selected in kinds.items():
        counts = np.zeros((len(experts), len(experts)), int)
        np.add.at(counts, (before[selected], after[selected]), 1)
        rows = [[name, *map(str, row)] for name, row in zip(experts, counts.tolist(), strict=True)]
        title = f"{kind} ({FIGURES[kind]}): {int(selected.sum()):,} answers; rows before, columns after"
        tables.append({"title": title, "head": ["", *experts], "rows": rows})
        numbers[kind] = counts.tolist()
    leads = {
        name: [round(100 * float((side == e).mean()), 1) for side in (before, after)] for e, name in enumerate(experts)
    }
    favorite = max(leads, key=lambda name: leads[name][0])
    moved = 100 * float((before != after).mean())
    note = (
        f"The leading expert changes for {moved:.1f} % of the questions. The router prefers {favorite}, which leads "
        f"for {leads[favorite][0]:.1f} % of them, and for {leads[favorite][1]:.1f} % after re-routing. The paper "
        "reports the same for MoAI's router and its expert I_LANG."
    )
    return {"tables": tables, "notes": [note], "numbers": {"counts": numbers, "leads": leads, "moved": round(moved, 1)}}
