"""Does the loss that re-routing lowers predict the loss that counts? Along each sample's own path.

Axis letters: B test samples, P points of a path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.analysis.loss_landscape import rank_correlation
from r2t2_jax.reporting.cases import KINDS, kinds_of
from r2t2_jax.reporting.formatting import count
from r2t2_jax.reporting.results import ModelResults, StrategyRows
from r2t2_jax.reporting.style import KIND_COLORS, FigureSpec, new_figure
from r2t2_jax.reporting.tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 3  # points of a path that make a rank correlation
BINS = np.linspace(-1, 1, 11)


class Reliability(NamedTuple):
    """Of each sample: the rank correlation of both losses over the path, and whether its own fell in the end."""

    correlation: Float[np.ndarray, "B"]
    fell: Bool[np.ndarray, "B"]


def reliability(explained: StrategyRows | None) -> Reliability | None:
    """`None` where a strategy has no path, or nobody knows the samples' own losses along it."""
    if explained is None:
        return None
    points = min(explained.losses.shape[1], explained.own_losses.shape[1])
    if points < FEWEST:
        return None
    losses, own = explained.losses[:, :points], explained.own_losses
    return Reliability(rank_correlation(losses, own[:, :points]), own[:, -1] < own[:, 0])


def surrogate(results: ModelResults) -> FigureSpec | None:
    """How many samples have which rank correlation, by what became of the answer."""
    explained, found = results.explained, reliability(results.explained)
    if explained is None or found is None:
        return None
    kinds = np.array(kinds_of(results, explained))
    rho, fell = found
    lost = kinds == "right → wrong"
    text = (
        f"Every step of {explained.name} lowers the loss of the neighbours' answers. Whether that tells anything of "
        "the question's own answer is the rank correlation of both losses over the points of its path: 1 where they "
        f"fall together, −1 where one rises as the other falls. The median is {_number(float(np.median(rho)))}; it is "
        f"above zero for {percent(float((rho > 0).mean()))} % of the questions. In the end the question's own loss has "
        f"fallen for {percent(float(fell.mean()))} % of them"
    )
    if lost.any():
        text += f", and for {int(fell[lost].sum()):,} of the {count(int(lost.sum()), 'answer')} that turned wrong"
    return FigureSpec(
        "surrogate",
        "Does the neighbours' loss predict the question's own?",
        f"Rank correlation of neighbourhood loss and own loss along the path on {results.name}: median "
        f"{_number(float(np.median(rho)))}",
        f"{text}.",
        lambda narrow: _draw(rho, kinds, narrow),
        [_row(results, explained, i, kinds[i], float(rho[i])) for i in range(len(rho))],
    )


def _row(results: ModelResults, explained: StrategyRows, i: int, kind: str, rho: float) -> dict[str, Any]:
    return {
        "id": results.ids[i],
        "family": results.categories[i],
        "kind": kind,
        "rank_correlation": round(rho, 4),
        "neighbors_loss_first": round(float(explained.losses[i, 0]), 6),
        "neighbors_loss_last": round(float(explained.losses[i, -1]), 6),
        "own_loss_first": round(float(explained.own_losses[i, 0]), 6),
        "own_loss_last": round(float(explained.own_losses[i, -1]), 6),
    }


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _draw(rho: Float[np.ndarray, "B"], kinds: np.ndarray, narrow: bool) -> Figure:
    figure = new_figure(narrow, 3.0)
    axes = figure.subplots()
    present = [kind for kind in KINDS if (kinds == kind).any()]
    axes.hist(
        [rho[kinds == kind] for kind in present],
        bins=BINS.tolist(),
        stacked=True,
        color=[KIND_COLORS[kind] for kind in present],
        label=present,
        edgecolor="white",
        linewidth=0.6,
    )
    axes.axvline(float(np.median(rho)), color="black", linestyle=(0, (4, 3)), linewidth=0.9)
    axes.set_xlim(-1, 1)
    axes.set_xlabel("rank correlation of the neighbours' loss with the question's own (dashed: median)")
    if narrow:
        axes.set_xlabel("rank correlation\n(dashed: median)")
    axes.set_ylabel("questions")
    axes.grid(axis="y")
    figure.legend(loc="outside upper right", ncols=2 if narrow else 4, columnspacing=1.2)
    return figure
