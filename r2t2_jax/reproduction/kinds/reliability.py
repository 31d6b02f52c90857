"""Numbers on the reliability of the neighbors' loss, and the comparison of the rivals with descent.

The report draws the former (`reporting/figures/surrogate.py`, `similarity.py`).

Axis letters: B test samples, K neighbors, P points of a path, Q losses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from r2t2_jax.analysis.loss_landscape import rank_correlation
from r2t2_jax.evaluation.statistics import compare, mean_interval
from r2t2_jax.methods import BASE
from r2t2_jax.reporting.formatting import signed, signed_interval
from r2t2_jax.reporting.roles import BOUND, role
from r2t2_jax.reproduction.table_data import TableData

ROW = "ngd"
PARTS = 5  # groups of questions, by the similarity of their neighbors


def reliability(data: TableData) -> dict[str, Any]:
    """Rank correlations along the paths, changes of the question's own loss, and gains by similarity of neighbors."""
    losses = np.concatenate([target.column(ROW, "losses") for target in data.targets])  # [B, Q]
    own = np.concatenate([target.column(ROW, "own_losses") for target in data.targets])  # [B, P]
    near = np.concatenate([target.column(ROW, "similarities") for target in data.targets]).mean(axis=1)  # [B]
    before, after = data.right(BASE), data.right(ROW)
    rho = rank_correlation(losses, own[:, : losses.shape[1]])
    mean = mean_interval(rho)
    rises, lost = own[:, -1] >= own[:, 0], before & ~after
    numbers = {
        "median": round(float(np.median(rho)), 2),
        "mean": [round(value, 2) for value in (mean.gain, mean.low, mean.high)],
        "negative": round(100 * float((rho < 0).mean()), 1),
        "rises": round(100 * float(rises.mean()), 1),
        "lost": int(lost.sum()),
        "lost_rises": int((lost & rises).sum()),
    }
    notes = [
        "Over the points of a path, the neighbors' loss and the question's own loss have a rank correlation of "
        f"{numbers['median']:.2f} in the median (mean {mean.gain:.2f}, 95 % interval {mean.low:.2f} to "
        f"{mean.high:.2f}); it is negative for {numbers['negative']:.1f} % of the questions. At the end the question's "
        f"own loss is no lower than at the start for {numbers['rises']:.1f} % of them, and for "
        f"{numbers['lost_rises']} of the {numbers['lost']} answers that turned wrong.".replace("-", "−")
    ]
    fifths = [part for part in np.array_split(np.argsort(near, kind="stable"), PARTS) if len(part)]
    gains = [compare(before[part], after[part]).times(100) for part in fifths]
    rows = [
        [
            f"{near[part].min():.2f} to {near[part].max():.2f}",
            str(len(part)),
            f"{100 * before[part].mean():.1f}",
            f"{100 * after[part].mean():.1f}",
            f"{signed(gain.gain)} ({signed_interval(gain.low, gain.high)})",
        ]
        for part, gain in zip(fifths, gains, strict=True)
    ]
    title = "By the mean cosine of the neighbors' questions"
    table = {"title": title, "head": ["cosine", "n", "before, %", "after, %", "points gained"], "rows": rows}
    numbers["far_gain"], numbers["near_gain"] = round(gains[0].gain, 1), round(gains[-1].gain, 1)
    return {"tables": [table], "notes": notes, "numbers": numbers}


def rivals(data: TableData) -> dict[str, Any]:
    """Paired gains over descent, and the strategies that are better and those that are also cheaper."""
    descent = data.right(ROW)
    evaluations = {name: data.first_value(name, "evaluations") for name in data.names}
    gains = {name: compare(descent, data.right(name)) for name in data.names if name != ROW}
    texts = {
        name: f"{signed(100 * gain.gain)} ({signed_interval(100 * gain.low, 100 * gain.high)})"
        for name, gain in gains.items()
    }
    better = [name for name, gain in gains.items() if gain.low > 0 and role(name) != BOUND]
    cheaper = [name for name in better if evaluations[name] < evaluations[ROW]]
    ranking = sorted(data.names, key=lambda name: -float(np.mean(data.right(name))))
    notes = [
        f"Significantly better than {ROW} without reading a label: {_listed(better)}. "
        f"Cheaper ones of these: {_listed(cheaper)}.",
        f"From best to worst: {', '.join(ranking)}.",
    ]
    numbers = {name: [gain.gain, gain.low, gain.high] for name, gain in gains.items()}
    return {"columns": {f"gain over {ROW}, points": texts}, "notes": notes, "numbers": {"against": numbers}}


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
