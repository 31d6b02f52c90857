"""Whether the loss that re-routing minimizes predicts the question's own loss, along each sample's path.

Axis letters: B test samples, P points of a path.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.analysis.loss_landscape import rank_correlation
from r2t2_jax.reporting.axes import Area, color_key, draw_axes, draw_legend, legend_height, number_axis
from r2t2_jax.reporting.drawing import Drawing
from r2t2_jax.reporting.examples import OUTCOMES, outcomes_of
from r2t2_jax.reporting.formatting import decimal, percent, plural
from r2t2_jax.reporting.results import ModelResults, StrategyRows
from r2t2_jax.reporting.style import OUTCOME_COLORS, FigureSpec, new_drawing

MIN_POINTS = 3  # of a path, for a rank correlation
BINS = np.linspace(-1, 1, 11)


class Reliability(NamedTuple):
    """Of each sample: the rank correlation of both losses over its path, and whether its own loss decreased."""

    correlation: Float[np.ndarray, "B"]
    own_decreased: Bool[np.ndarray, "B"]


def reliability(explained: StrategyRows | None) -> Reliability | None:
    """`None` if the strategy has no path, or the run did not record the samples' own losses along it."""
    if explained is None:
        return None
    points = min(explained.losses.shape[1], explained.own_losses.shape[1])
    if points < MIN_POINTS:
        return None
    losses, own = explained.losses[:, :points], explained.own_losses
    return Reliability(rank_correlation(losses, own[:, :points]), own[:, -1] < own[:, 0])


def surrogate_figure(results: ModelResults) -> FigureSpec | None:
    """A histogram of the samples' rank correlations, by outcome."""
    explained, measured = results.explained, reliability(results.explained)
    if explained is None or measured is None:
        return None
    outcomes = np.array(outcomes_of(results, explained))
    rho, own_decreased = measured
    failed = outcomes == "right → wrong"
    text = (
        f"{explained.name} minimizes the loss of the neighbors' answers. Does that help the question itself? We "
        "measure the rank correlation of the two losses along the search path: 1 if both decrease together, −1 if one "
        f"increases as the other decreases. The median is {decimal(float(np.median(rho)))}; the correlation is "
        f"positive for {percent(float((rho > 0).mean()))} % of the questions. At the end of the path the question's "
        f"own loss is lower than at its start for {percent(float(own_decreased.mean()))} % of the questions"
    )
    if failed.any():
        part = f"{int(own_decreased[failed].sum()):,} of the {plural(int(failed.sum()), 'answer')}"
        text += f", and for {part} that turned wrong"
    return FigureSpec(
        "surrogate",
        "Does the neighbors' loss predict the question's own loss?",
        f"Rank correlation of neighborhood loss and own loss along the path on {results.name}: median "
        f"{decimal(float(np.median(rho)))}",
        f"{text}.",
        lambda narrow: _draw(rho, outcomes, narrow),
        [_row(results, explained, i, outcomes[i], float(rho[i])) for i in range(len(rho))],
    )


def _row(results: ModelResults, explained: StrategyRows, i: int, outcome: str, rho: float) -> dict[str, Any]:
    return {
        "id": results.ids[i],
        "family": results.categories[i],
        "outcome": outcome,
        "rank_correlation": round(rho, 4),
        "neighbors_loss_first": round(float(explained.losses[i, 0]), 6),
        "neighbors_loss_last": round(float(explained.losses[i, -1]), 6),
        "own_loss_first": round(float(explained.own_losses[i, 0]), 6),
        "own_loss_last": round(float(explained.own_losses[i, -1]), 6),
    }


def _draw(rho: Float[np.ndarray, "B"], outcomes: np.ndarray, narrow: bool) -> Drawing:
    drawing, columns = new_drawing(narrow, 216), 2 if narrow else 4
    present = [outcome for outcome in OUTCOMES if (outcomes == outcome).any()]
    counts = {outcome: np.histogram(rho[outcomes == outcome], BINS)[0] for outcome in present}
    draw_legend(drawing, [(outcome, color_key(OUTCOME_COLORS[outcome])) for outcome in present], columns)
    label = "rank correlation of the neighbors' loss with the question's own loss (dashed: median)"
    x = number_axis(-1, 1, "rank correlation\n(dashed: median)" if narrow else label, most=4 if narrow else 8)
    y = number_axis(0, 1.05 * float(np.sum(list(counts.values()), axis=0).max()), "questions", grid=True)
    axes = draw_axes(drawing, Area(0, legend_height(len(present), columns), drawing.width, drawing.height), x, y)
    below = np.zeros(len(BINS) - 1)
    for outcome, numbers in counts.items():
        for bottom, number, left, right in zip(below, numbers, BINS[:-1], BINS[1:], strict=True):
            if number:
                axes.bar((left, bottom), (right, bottom + number), OUTCOME_COLORS[outcome], edge="white")
        below = below + numbers
    axes.dashed_line(x=float(np.median(rho)))
    return drawing
