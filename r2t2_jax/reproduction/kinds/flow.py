"""Which answers turn at which step (R2-T2, Figure 5).

Axis letters: B test samples, P points of a path.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool

from r2t2_jax.evaluation.summary import wilson_interval
from r2t2_jax.reproduction.found import Found
from r2t2_jax.reproduction.paper import paper_numbers

ROW = "ngd"
EARLY = 4  # the step that the paper names


def flow(found: Found) -> dict[str, Any]:
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
