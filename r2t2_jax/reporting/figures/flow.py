"""Answers that turn right and wrong from step to step (R2-T2, Figure 5).

Axis letters: B test samples, P = S + 1 steps from 0 to S.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from r2t2_jax.reporting.axes import Area, Axes, Axis, color_key, draw_axes, draw_legend, legend_height, number_axis
from r2t2_jax.reporting.drawing import Drawing, path_data
from r2t2_jax.reporting.formatting import percent, plural
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.style import OUTCOME_COLORS, FigureSpec, new_drawing

BAR = 0.13  # half the width of a bar
RIGHT_COLOR, WRONG_COLOR = "#0072B2", "#9a9a9a"
CHANGES, HATCHED = ("wrong → right", "right → wrong"), "right → wrong"
STRONG, PALE = 0.55, 0.12  # opacity of bands of answers that change and that stay


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


def _draw(right: Bool[np.ndarray, "B P"], narrow: bool) -> Drawing:
    drawing, steps, columns = new_drawing(narrow, 252, 230), right.shape[1], 2 if narrow else 4
    keys = [("right", color_key(RIGHT_COLOR)), ("wrong", color_key(WRONG_COLOR))]
    for outcome in CHANGES:
        keys.append((outcome, color_key(OUTCOME_COLORS[outcome], STRONG, outcome == HATCHED)))
    draw_legend(drawing, keys, columns)
    every = -(-steps // (8 if narrow else 20))
    x = Axis(-0.4, steps - 0.6, {step: str(step) for step in range(0, steps, every)}, "step")
    area = Area(0, legend_height(len(keys), columns), drawing.width, drawing.height)
    axes = draw_axes(drawing, area, x, number_axis(0, 100, "share of answers, %", most=6))
    for step in range(steps - 1):
        _draw_bands(axes, step, right[:, step], right[:, step + 1])
    for step in range(steps):
        wrong = 100 * float((~right[:, step]).mean())
        axes.bar((step - BAR, wrong), (step + BAR, 100), RIGHT_COLOR)
        axes.bar((step - BAR, 0), (step + BAR, wrong), WRONG_COLOR)
    return drawing


def _draw_bands(axes: Axes, step: int, before: Bool[np.ndarray, "B"], after: Bool[np.ndarray, "B"]) -> None:
    """Draw the four bands between two bars: from the top, what stays right, what changes, what stays wrong."""
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
    for outcome, (left, right) in sorted(tops.items(), key=lambda band: band[0] in CHANGES):
        stays_right = outcome == "right → right"
        color = OUTCOME_COLORS[outcome] if outcome in CHANGES else RIGHT_COLOR if stays_right else WRONG_COLOR
        band = _band(axes, edges, (left, right), shares[outcome])
        axes.drawing.area(band, color, STRONG if outcome in CHANGES else PALE, hatched=outcome == HATCHED)


def _band(axes: Axes, edges: tuple[float, float], tops: tuple[float, float], height: float) -> str:
    """A band between two x positions whose upper edge goes from one height to another in a smooth step 3t² - 2t³."""
    (left, right), (start, end) = edges, tops
    near, far = left + (right - left) / 3, right - (right - left) / 3  # control points of a cubic Bézier curve
    over = [axes.at(*point) for point in ((left, start), (near, start), (far, end), (right, end))]
    down = axes.at(left, 0)[1] - axes.at(left, height)[1]
    under = [(x, y + down) for x, y in reversed(over)]
    return path_data(over[0], ("C", over[1:]), ("L", under[:1]), ("C", under[1:]))
