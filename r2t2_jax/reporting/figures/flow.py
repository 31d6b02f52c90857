"""How answers turn right and wrong from step to step (R2-T2, Figure 5).

Axis letters: B test samples, P = S + 1 steps from 0 to S.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from r2t2_jax.reporting.formatting import count
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.style import KIND_COLORS, FigureSpec, new_figure
from r2t2_jax.reporting.tables import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR = 0.13  # half the width of a step's bar
RIGHT_COLOR, WRONG_COLOR = "#0072B2", "#9a9a9a"


def flow(results: ModelResults) -> FigureSpec | None:
    """A bar for each step, right answers over wrong ones, and bands for the answers that go from bar to bar."""
    if results.explained is None or results.explained.step_right.shape[1] < 2:
        return None
    right = results.explained.step_right  # [B, P]
    start, end = right[:, 0], right[:, -1]
    corrected, lost = int((~start & end).sum()), int((start & ~end).sum())
    last = right.shape[1] - 1
    text = (
        f"At step 0 the model answers with its router's own weights, after that with what {results.explained.name} has "
        f"found so far. By step {last}, {percent(_share(corrected, ~start))} % of the wrong answers "
        f"({corrected:,} of {int((~start).sum()):,}) have turned right, and {percent(_share(lost, start))} % of the "
        f"right ones ({lost:,} of {int(start.sum()):,}) wrong. {_settling(right)}"
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


def _settling(right: Bool[np.ndarray, "B P"]) -> str:
    """Whether answers still turn in the last step."""
    turns = (right[:, 1:] != right[:, :-1]).sum(axis=0)
    most = int(turns.argmax())
    late = count(int(turns[-1]), "answer")
    return f"Most answers turn in step {most + 1} ({turns[most]:,}), and {late} still in the last."


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
    for kind in ("wrong → right", "right → wrong"):
        axes.fill_between([], [], [], color=KIND_COLORS[kind], alpha=0.55, label=kind, hatch=_hatch(kind), linewidth=0)
    figure.legend(loc="outside upper right", ncols=2 if narrow else 4, columnspacing=1.2)
    return figure


def _hatch(kind: str) -> str:
    return "////" if kind == "right → wrong" else ""


def _bands(axes: Axes, step: int, before: Bool[np.ndarray, "B"], after: Bool[np.ndarray, "B"]) -> None:
    """Four bands between two bars. At both bars, from the top: what stays right, what turns, what stays wrong."""
    shares = {
        "right → right": 100 * (before & after).mean(),
        "right → wrong": 100 * (before & ~after).mean(),
        "wrong → right": 100 * (~before & after).mean(),
        "wrong → wrong": 100 * (~before & ~after).mean(),
    }
    stays, lost, won, _ = shares.values()
    tops = {  # of each band at the left and at the right bar
        "right → right": (100, 100),
        "right → wrong": (100 - stays, 100 - stays - won),
        "wrong → right": (100 - stays - lost, 100 - stays),
        "wrong → wrong": (100 - stays - lost - won, 100 - stays - won - lost),
    }
    position = np.linspace(0, 1, 30)
    ease = position * position * (3 - 2 * position)  # a smooth step
    for kind, (left, at_right) in tops.items():
        top = left + (at_right - left) * ease
        pale = kind in ("right → right", "wrong → wrong")
        axes.fill_between(
            step + BAR + (1 - 2 * BAR) * position,
            top - shares[kind],
            top,
            color=RIGHT_COLOR if kind == "right → right" else WRONG_COLOR if pale else KIND_COLORS[kind],
            alpha=0.12 if pale else 0.55,
            hatch=_hatch(kind),
            linewidth=0,
            zorder=1 if pale else 2,
        )
