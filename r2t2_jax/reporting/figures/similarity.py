"""What nearer neighbours are worth: accuracy before and after by how alike the neighbours' questions are.

Axis letters: B test samples, K neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from r2t2_jax.evaluation.statistics import paired_gain
from r2t2_jax.reporting.formatting import signed, signed_span
from r2t2_jax.reporting.results import BASE, ModelResults
from r2t2_jax.reporting.style import BLUE, GREY, FigureSpec, new_figure
from r2t2_jax.reporting.tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = 5  # of equal numbers of questions, from the least to the most alike


def similarity(results: ModelResults) -> FigureSpec | None:
    """A pair of marks for each fifth of the questions."""
    explained = results.explained
    if explained is None or not explained.similarities.shape[1] or len(explained.right) < PARTS:
        return None
    mean = explained.similarities.mean(axis=1)  # [B]
    rows = [_row(results, part, mean) for part in np.array_split(np.argsort(mean, kind="stable"), PARTS)]
    first, last = rows[0], rows[-1]
    gain = explained.right.astype(float) - results.base.right
    text = (
        f"Questions in five parts by the mean cosine of their neighbours' questions with their own. Where neighbours "
        f"are least alike {explained.name} gains {signed(first['gain_points'])} points "
        f"({signed_span(first['low'], first['high'])}), where they are most alike {signed(last['gain_points'])} "
        f"({signed_span(last['low'], last['high'])}). Over single questions similarity and gain correlate with "
        f"{_correlation(mean, gain)} (Pearson)."
    )
    return FigureSpec(
        "similarity",
        "Similarity of the neighbours against gain",
        f"Accuracy on {results.name} before and after by similarity of the neighbours: "
        + "; ".join(f"{row['from']} to {row['to']}: {signed(row['gain_points'])} points" for row in rows),
        text,
        lambda narrow: _draw(rows, explained.name, narrow),
        rows,
    )


def _correlation(left: Float[np.ndarray, "B"], right: Float[np.ndarray, "B"]) -> str:
    if not left.std() or not right.std():
        return "nothing, one of them being constant"
    return f"{np.corrcoef(left, right)[0, 1]:.2f}".replace("-", "−")


def _row(results: ModelResults, part: np.ndarray, mean: Float[np.ndarray, "B"]) -> dict[str, Any]:
    assert results.explained is not None
    before, after = results.base.right[part], results.explained.right[part]
    gain, low, high = (100 * value for value in paired_gain(before, after))
    return {
        "from": round(float(mean[part].min()), 3),
        "to": round(float(mean[part].max()), 3),
        "n": len(part),
        "before": round(float(before.mean()), 4),
        "after": round(float(after.mean()), 4),
        "gain_points": round(gain, 2),
        "low": round(low, 2),
        "high": round(high, 2),
    }


def _draw(rows: list[dict[str, Any]], name: str, narrow: bool) -> Figure:
    figure = new_figure(narrow, 2.6)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        before, after = 100 * row["before"], 100 * row["after"]
        axes.plot([place, place], [before, after], color=BLUE, linewidth=2.4, solid_capstyle="butt", zorder=2)
        axes.plot([place], [before], "o", markerfacecolor="white", markeredgecolor=GREY, zorder=3)
        axes.plot([place], [after], "o", color=BLUE, zorder=3)
        axes.annotate(
            percent(row["after"]), (place, after), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.plot([], [], "o", markerfacecolor="white", markeredgecolor=GREY, label=BASE)
    axes.plot([], [], "o", color=BLUE, label=name)
    between = "–\n" if narrow else "–"
    axes.set_xticks(range(len(rows)), [f"{row['from']:.2f}{between}{row['to']:.2f}" for row in rows])
    axes.set_xlim(-0.4, len(rows) - 0.4)
    axes.set_xlabel("mean cosine of the neighbours' questions")
    axes.set_ylabel("right, %")
    axes.grid(axis="y")
    figure.legend(loc="outside upper right", ncols=2)
    return figure
