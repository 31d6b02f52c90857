"""Accuracy before and after re-routing, by the similarity of the neighbors' questions.

Axis letters: B test samples, K neighbors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from r2t2_jax.evaluation.statistics import compare
from r2t2_jax.methods import BASE
from r2t2_jax.reporting.axes import (
    Area,
    Axis,
    draw_axes,
    draw_legend,
    legend_height,
    marker_key,
    number_axis,
    with_margin,
)
from r2t2_jax.reporting.drawing import Drawing
from r2t2_jax.reporting.formatting import decimal, percent, signed, signed_interval
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.style import BLUE, GRAY, FigureSpec, new_drawing

PARTS = 5  # of equal numbers of questions, from the least to the most similar neighbors


def similarity_figure(results: ModelResults) -> FigureSpec | None:
    """A pair of markers for each fifth of the questions."""
    explained = results.explained
    if explained is None or not explained.similarities.shape[1] or len(explained.right) < PARTS:
        return None
    mean = explained.similarities.mean(axis=1)  # [B]
    rows = [_row(results, part, mean) for part in np.array_split(np.argsort(mean, kind="stable"), PARTS)]
    first, last = rows[0], rows[-1]
    gain = explained.right.astype(float) - results.base.right
    text = (
        f"Questions in five groups of equal size, by the mean cosine similarity of their neighbors' questions. With "
        f"the least similar neighbors {explained.name} gains {signed(first['gain_points'])} points "
        f"({signed_interval(first['low'], first['high'])}), with the most similar {signed(last['gain_points'])} "
        f"({signed_interval(last['low'], last['high'])}). {_correlation(mean, gain)}"
    )
    return FigureSpec(
        "similarity",
        "Gain by similarity of the neighbors",
        f"Accuracy on {results.name} before and after re-routing by similarity of the neighbors: "
        + "; ".join(f"{row['from']} to {row['to']}: {signed(row['gain_points'])} points" for row in rows),
        text,
        lambda narrow: _draw(rows, explained.name, narrow),
        rows,
    )


def _correlation(similarity: Float[np.ndarray, "B"], gain: Float[np.ndarray, "B"]) -> str:
    """A sentence on the correlation over single questions."""
    if not similarity.std() or not gain.std():
        return "Similarity and gain of single questions have no correlation, since one of them is constant."
    value = decimal(np.corrcoef(similarity, gain)[0, 1])
    return f"The Pearson correlation of similarity and gain over single questions is {value}."


def _row(results: ModelResults, part: np.ndarray, mean: Float[np.ndarray, "B"]) -> dict[str, Any]:
    assert results.explained is not None
    before, after = results.base.right[part], results.explained.right[part]
    gain = compare(before, after).times(100)
    return {
        "from": round(float(mean[part].min()), 3),
        "to": round(float(mean[part].max()), 3),
        "n": len(part),
        "before": round(float(before.mean()), 4),
        "after": round(float(after.mean()), 4),
        "gain_points": round(gain.gain, 2),
        "low": round(gain.low, 2),
        "high": round(gain.high, 2),
    }


def _draw(rows: list[dict[str, Any]], name: str, narrow: bool) -> Drawing:
    drawing = new_drawing(narrow, 187)
    keys = [(BASE, marker_key("o", "white", GRAY)), (name, marker_key("o", BLUE))]
    draw_legend(drawing, keys, columns=2)
    dash = "–\n" if narrow else "–"
    ticks = {float(place): f"{row['from']:.2f}{dash}{row['to']:.2f}" for place, row in enumerate(rows)}
    x = Axis(-0.4, len(rows) - 0.4, ticks, "mean cosine similarity of the neighbors' questions")
    limits = with_margin([100 * row[key] for row in rows for key in ("before", "after")])
    area = Area(0, legend_height(2, 2), drawing.width, drawing.height)
    axes = draw_axes(drawing, area, x, number_axis(*limits, "accuracy, %", grid=True, most=6))
    for place, row in enumerate(rows):
        before, after = 100 * row["before"], 100 * row["after"]
        axes.line([(place, before), (place, after)], BLUE, 2.4)
        axes.marker(place, before, "o", "white", GRAY)
        axes.marker(place, after, "o", BLUE)
        right, height = axes.at(place, after)
        drawing.text((right + 6, height), percent(row["after"]), size=8)
    return drawing
