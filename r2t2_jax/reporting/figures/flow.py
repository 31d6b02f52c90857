"""Answers that turn right and wrong from step to step (R2-T2, Figure 5).

Axis letters: B test samples, P = S + 1 steps from 0 to S.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from r2t2_jax.reporting.formatting import percent, plural
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.style import OUTCOME_COLORS, FigureSpec, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

BAR = 0.13  # half the width of a bar
RIGHT_COLOR, WRONG_COLOR = "#0072B2", "#9a9a9a"


def flow_figure(results: ModelResults) -> FigureSpec | None:
    """One bar per step, right answers above wrong ones, and bands between bars for answers that change or stay."""
    if results.explained is None or results.explained.step_right.shape[1] < 2:
        return None
    right = results.explained.step_right  # [B, P]
    start, end = right[:, 0], right[:, -1]
    corrected, spoiled = int((~start & end).sum()), int((start & ~end).sum())
    last = right.shape[1] - 1
    text = (
        f"At step 0 the model answers with its router's own weights, at later steps with the weights that "
        f"{results.explained.name} has reached. By step {last}, {percent(_share(corrected, ~start))} % of the wrong "
        f"answers ({corrected:,} of {int((~start).sum()):,}) have turned right, and "
        f"{percent(_share(spoiled, start))} % of the right ones ({spoiled:,} of {int(start.sum()):,}) wrong. "
        f"{_convergence(right)}"
    )
    return FigureSpec(
        "flow",
        "Answers from step to step",
        f"Share of right answers on {results.name} after each step: "
        + ", ".join(f"{percent(share)} %" for share in right.mean(axis=0)),
        text,
        lambda narrow: _draw(right, narrow),
        [
            {
                "step": step,
                "right": int(right[:, step].sum()),
                "wrong": int((~right[:, step]).sum()),
                "turned_right": int((~right[:, step - 1] & right[:, step]).sum()) if step else 0,
                "turned_wrong": int((right[:, step - 1] & ~right[:, step]).sum()) if step else 0,
            }
            for step in range(right.shape[1])
        ],
    )


def _share(part: int, of: Bool[np.ndarray, "B"]) -> float:
    return part / max(int(of.sum()), 1)


def _convergence(right: Bool[np.ndarray, "B P"]) -> str:
    """In which step most answers change, and how many still change in the last."""
    changes = (right[:, 1:] != right[:, :-1]).sum(axis=0)  # [S]
    step = int(changes.argmax())
    late = plural(int(changes[-1]), "answer")
    return f"Most changes happen in step {step + 1} ({changes[step]:,}); in the last step {late} still changed."


def _draw(right: Bool[np.ndarray, "B P"], narrow: bool) -> Figure:
    figure = new_figure(narrow, 3.5, 3.2)
    axes = figure.subplots()
    steps = right.shape[1]
    for step in range(steps - 1):
        _bands(axes, step, right[:, step], right[:, step + 1])
    for step in range(steps):
        share = 100 * right[:, step].mean()
        axes.bar(step, share, 2 * BAR, bottom=100 - share, color=RIGHT_COLOR, zorder=3)
        axes.bar(step, 100 - share, 2 * BAR, color=WRONG_COLOR, zorder=3)
    every = 2 if narrow and steps > 6 else 1
    axes.set_xticks(range(0, steps, every))
    axes.set_xlim(-0.4, steps - 0.6)
    axes.set_ylim(0, 100)
    axes.set_xlabel("step")
    axes.set_ylabel("share of answers, %")
    for label, color in (("right", RIGHT_COLOR), ("wrong", WRONG_COLOR)):
        axes.fill_between([], [], [], color=color, label=label)
    for outcome in ("wrong → right", "right → wrong"):
        axes.fill_between(
            [], [], [], color=OUTCOME_COLORS[outcome], alpha=0.55, label=outcome, hatch=_hatch(outcome), linewidth=0
        )
    figure.legend(loc="outside upper right", ncols=2 if narrow else 4, columnspacing=1.2)
    return figure


def _hatch(outcome: str) -> str:
    return "////" if outcome == "right → wrong" else ""


def _bands(axes: Axes, step: int, before: Bool[np.ndarray, "B"], after: Bool[np.ndarray, "B"]) -> None:
    """Draw the four bands between two bars: from the top, what stays right, what changes, what stays wrong."""
    from matplotlib.patches import PathPatch

    shares = {
        "right → right": 100 * (before & after).mean(),
        "right → wrong": 100 * (before & ~after).mean(),
        "wrong → right": 100 * (~before & after).mean(),
        "wrong → wrong": 100 * (~before & ~after).mean(),
    }
    stays, spoiled, corrected, _ = shares.values()
    tops = {  # upper edge of each band at the left and at the right bar
        "right → right": (100, 100),
        "right → wrong": (100 - stays, 100 - stays - corrected),
        "wrong → right": (100 - stays - spoiled, 100 - stays),
        "wrong → wrong": (100 - stays - spoiled - corrected, 100 - stays - corrected - spoiled),
    }
    edges = step + BAR, step + 1 - BAR
    for outcome, (left, right) in tops.items():
        pale = outcome in ("right → right", "wrong → wrong")
        axes.add_patch(
            PathPatch(
                _band(edges, (left, right), shares[outcome]),
                color=RIGHT_COLOR if outcome == "right → right" else WRONG_COLOR if pale else OUTCOME_COLORS[outcome],
                alpha=0.12 if pale else 0.55,
                hatch=_hatch(outcome),
                linewidth=0,
                zorder=1 if pale else 2,
            )
        )


def _band(edges: tuple[float, float], tops: tuple[float, float], height: float) -> Path:
    """A band between two x positions whose upper edge goes from one height to another in a smooth step 3t² - 2t³."""
    from matplotlib.path import Path

    (left, right), (start, end) = edges, tops
    near, far = left + (right - left) / 3, right - (right - left) / 3  # control points of a cubic Bézier curve
    over = [(left, start), (near, start), (far, end), (right, end)]
    under = [(x, y - height) for x, y in reversed(over)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    return Path([*over, *under, over[0]], codes)
