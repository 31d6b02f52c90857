"""Loss and routing weights of single samples, step by step.

Axis letters: P points of a path, Q losses, L routed layers, E experts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from r2t2_jax.reporting.axes import (
    Area,
    Axis,
    draw_axes,
    draw_legend,
    legend_height,
    margins,
    marker_key,
    number_axis,
)
from r2t2_jax.reporting.drawing import Drawing
from r2t2_jax.reporting.examples import OUTCOMES, SelectedExample
from r2t2_jax.reporting.formatting import shorten
from r2t2_jax.reporting.results import ModelResults, StrategyRows
from r2t2_jax.reporting.style import GRAY, MARKERS, OUTCOME_COLORS, SERIES, FigureSpec, new_drawing

SHOWN_EXPERTS = len(SERIES)  # experts with a line of their own


def paths_figure(results: ModelResults, selected: list[SelectedExample]) -> FigureSpec | None:
    """For one example of each outcome: the neighborhood loss above, the experts' weights below."""
    explained = results.explained
    if explained is None or explained.path.shape[1] < 3 or not selected:
        return None
    first = {example.outcome: example for example in reversed(selected)}
    examples = [first[outcome] for outcome in OUTCOMES if outcome in first]
    averaged = f", mean of the {len(results.layers)} layers" if len(results.layers) > 1 else ""
    text = (
        f"One example of each outcome, numbered as the examples of {explained.name}. Top: the loss that it minimizes, "
        f"that of the neighbors' answers. Bottom: the weight of each expert{averaged}. {_loss_decrease(explained)}"
    )
    rows = [
        {
            "example": example.number,
            "outcome": example.outcome,
            "id": results.ids[example.row],
            "step": step,
            **_point(results, example, step),
        }
        for example in examples
        for step in range(explained.path.shape[1])
    ]
    return FigureSpec(
        "paths",
        "Single samples, step by step",
        f"Loss and routing weights by step of {len(examples)} samples on {results.name}",
        text,
        lambda narrow: _draw(results, explained, examples, narrow),
        rows,
    )


def _point(results: ModelResults, example: SelectedExample, step: int) -> dict[str, float | None]:
    assert results.explained is not None
    losses = results.explained.losses[example.row]
    weights = results.explained.path[example.row, step].mean(axis=0)
    loss = {"loss": round(float(losses[step]), 6) if step < len(losses) else None}
    return loss | {name: round(float(value), 6) for name, value in zip(results.experts, weights, strict=True)}


def _loss_decrease(explained: StrategyRows) -> str:
    """In how many samples the loss is lower at the end than at the start."""
    if explained.losses.shape[1] < 2:
        return ""
    fell = int((explained.losses[:, -1] < explained.losses[:, 0]).sum())
    return f"The loss is lower at the end than at the start for {fell:,} of {len(explained.losses):,} questions."


def _draw(results: ModelResults, explained: StrategyRows, examples: list[SelectedExample], narrow: bool) -> Drawing:
    drawing = new_drawing(narrow, 302, 144 * len(examples) + 58)
    rows = [example.row for example in examples]
    largest = np.abs(explained.path[rows].mean(axis=2)).max(axis=(0, 1))  # [E]
    shown = np.sort(np.argsort(-largest, kind="stable")[:SHOWN_EXPERTS])
    keys = [
        (shorten(results.experts[expert], 16), marker_key(MARKERS[rank], SERIES[rank], with_line=True))
        for rank, expert in enumerate(shown)
    ]
    columns = 3 if narrow else 7
    bottom = drawing.height - legend_height(len(keys), columns)
    draw_legend(drawing, keys, columns, bottom + 3, centered=True)
    steps = explained.path.shape[1]
    x = Axis(-0.4, steps - 0.6, {step: str(step) for step in range(0, steps, 5 if steps > 6 else 1)})
    pairs = _cells(drawing.width, bottom, len(examples), narrow)
    for column, (example, (above, below)) in enumerate(zip(examples, pairs, strict=True)):
        has_labels = narrow or column == 0
        title = f"Example {example.number}{': ' if narrow else chr(10)}{example.outcome}"
        losses, path = explained.losses[example.row], explained.path[example.row].mean(axis=1)  # [Q], [P, E]
        y = number_axis(0, 1.08 * max(float(losses.max(initial=0)), 1e-3), "loss" if has_labels else "", True, 4)
        limits = min(-0.03, float(path.min())), max(1.03, float(path.max()))
        weights = number_axis(*limits, "weight" if has_labels else "", grid=True, most=5)
        with_step = replace(x, label="step")
        around = [margins(drawing, x, y, title), margins(drawing, with_step, weights)]
        around = [room._replace(left=max(each.left for each in around)) for room in around]
        if narrow:  # the axes of one row are of equal height
            around = [room._replace(top=around[0].top, bottom=around[1].bottom) for room in around]
        axes = draw_axes(drawing, above, x, y, title, around[0])
        points = [(float(step), float(loss)) for step, loss in enumerate(losses)]
        axes.line(points, OUTCOME_COLORS[example.outcome], marker="o")
        axes = draw_axes(drawing, below, with_step, weights, around=around[1])
        for expert in np.argsort(np.isin(np.arange(len(results.experts)), shown), kind="stable"):
            points = [(float(step), float(weight)) for step, weight in enumerate(path[:, expert])]
            if expert in shown:
                rank = int(np.searchsorted(shown, expert))
                axes.line(points, SERIES[rank], 1.3, MARKERS[rank])
            else:
                axes.line(points, GRAY, 0.7, opacity=0.6)
    return drawing


def _cells(width: float, height: float, number: int, narrow: bool) -> list[tuple[Area, Area]]:
    """The areas of loss and weights of each example: side by side on a narrow screen, else one above the other."""
    if narrow:
        rows = [(height * row / number, height * (row + 1) / number) for row in range(number)]
        return [(Area(0, top, width / 2 - 4, end), Area(width / 2, top, width, end)) for top, end in rows]
    columns = [(width * column / number, width * (column + 1) / number - 6) for column in range(number)]
    middle = 0.53 * height  # titles and labels of the axes are of equal height
    return [(Area(left, 0, end, middle), Area(left, middle, end, height)) for left, end in columns]
