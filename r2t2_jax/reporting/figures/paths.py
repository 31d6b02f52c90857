"""Loss and routing weights of single samples, step by step.

Axis letters: P points of a path, Q losses, L routed layers, E experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from r2t2_jax.reporting.examples import OUTCOMES, SelectedExample
from r2t2_jax.reporting.formatting import shorten
from r2t2_jax.reporting.results import ModelResults, StrategyRows
from r2t2_jax.reporting.style import GRAY, MARKERS, OUTCOME_COLORS, SERIES, FigureSpec, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def _draw(results: ModelResults, explained: StrategyRows, examples: list[SelectedExample], narrow: bool) -> Figure:
    number = len(examples)
    figure = new_figure(narrow, 4.2, 2.0 * number + 0.8)
    grid = figure.subplots(number, 2, squeeze=False) if narrow else figure.subplots(2, number, squeeze=False).T
    rows = [example.row for example in examples]
    largest = np.abs(explained.path[rows].mean(axis=2)).max(axis=(0, 1))  # [E]
    shown = np.sort(np.argsort(-largest, kind="stable")[:SHOWN_EXPERTS])
    separator = ": " if narrow else "\n"
    for column, (example, (above, below)) in enumerate(zip(examples, grid, strict=True)):
        losses, path = explained.losses[example.row], explained.path[example.row].mean(axis=1)  # [Q], [P, E]
        above.plot(range(len(losses)), losses, "o-", color=OUTCOME_COLORS[example.outcome], markersize=3.5)
        above.set_ylim(0, 1.08 * max(float(losses.max(initial=0)), 1e-3))
        above.set_title(f"Example {example.number}{separator}{example.outcome}")
        for expert in range(len(results.experts)):
            if expert in shown:
                rank = int(np.searchsorted(shown, expert))
                below.plot(path[:, expert], color=SERIES[rank], marker=MARKERS[rank], markersize=3.5, linewidth=1.3)
            else:
                below.plot(path[:, expert], color=GRAY, linewidth=0.7, alpha=0.6)
        for axes, label in ((above, "loss"), (below, "weight")):
            axes.grid(axis="y")
            axes.set_xlim(-0.4, explained.path.shape[1] - 0.6)
            axes.set_xticks(range(0, explained.path.shape[1], 5 if explained.path.shape[1] > 6 else 1))
            if narrow or column == 0:
                axes.set_ylabel(label)
        below.set_ylim(min(-0.03, float(path.min())), max(1.03, float(path.max())))
        below.set_xlabel("step")
    _legend(figure, results, shown, narrow)
    return figure


def _legend(figure: Figure, results: ModelResults, shown: np.ndarray, narrow: bool) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=SERIES[rank], marker=MARKERS[rank], label=shorten(results.experts[expert], 16))
        for rank, expert in enumerate(shown)
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3 if narrow else 7, columnspacing=1.2)
