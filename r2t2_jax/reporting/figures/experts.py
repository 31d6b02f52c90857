"""Which expert weighs most before and after (R2-T2, Figures 4 and 11 to 14).

Axis letters: B test samples, L routed layers, E experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from r2t2_jax.reporting.cases import KINDS, kinds_of
from r2t2_jax.reporting.formatting import count
from r2t2_jax.reporting.results import ModelResults, StrategyRows
from r2t2_jax.reporting.style import KIND_COLORS, FigureSpec, new_figure
from r2t2_jax.reporting.tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEADERS = 8  # experts with a row of their own; the others share one


def experts(results: ModelResults) -> FigureSpec | None:
    """Four tables of counts: rows are the router's top expert, columns the one after re-routing."""
    explained = results.explained
    if explained is None or len(results.experts) < 2:
        return None
    names, before, after = _leading(results, explained)
    kinds = np.array(kinds_of(results, explained))
    tables = {kind: _table(before[kinds == kind], after[kinds == kind], len(names)) for kind in KINDS}
    moved = float((before != after).mean())
    favourite = int(np.bincount(before).argmax())
    text = (
        f"Rows are the expert with the largest weight under the router, columns under {explained.name}"
        f"{_averaged(results)}; the diagonal is where it stays the same. It changes for {percent(moved)} % of the "
        f"questions. The router leans on {names[favourite]}: it comes first for "
        f"{percent(float((before == favourite).mean()))} % of them, after re-routing for "
        f"{percent(float((after == favourite).mean()))} %. {_commonest(tables['wrong → right'], names)}"
    )
    return FigureSpec(
        "experts",
        "The leading expert, before and after",
        f"Counts of the leading expert before and after re-routing on {results.name}, by what became of the answer; "
        f"it changes for {percent(moved)} % of the questions",
        text,
        lambda narrow: _draw(tables, names, narrow),
        [
            {"kind": kind, "before": names[i], "after": names[j], "questions": int(table[i, j])}
            for kind, table in tables.items()
            for i in range(len(names))
            for j in range(len(names))
        ],
    )


def _averaged(results: ModelResults) -> str:
    return f" (mean of the {len(results.layers)} layers)" if len(results.layers) > 1 else ""


def _leading(results: ModelResults, explained: StrategyRows) -> tuple[list[str], Any, Any]:
    """Names with a row of their own, and the leading expert of each sample as a number among them."""

    def top(weights: Float[np.ndarray, "B L E"]) -> Int[np.ndarray, "B"]:
        return weights.mean(axis=1).argmax(axis=1)

    before, after = top(results.router_weights), top(explained.weights)
    total = np.bincount(np.concatenate([before, after]), minlength=len(results.experts))
    if len(results.experts) <= LEADERS:
        return list(results.experts), before, after
    kept = np.sort(np.argsort(-total, kind="stable")[:LEADERS])
    number = np.full(len(results.experts), LEADERS)
    number[kept] = np.arange(LEADERS)
    return [*(results.experts[i] for i in kept), "others"], number[before], number[after]


def _table(before: Int[np.ndarray, "B"], after: Int[np.ndarray, "B"], size: int) -> Int[np.ndarray, "E E"]:
    table = np.zeros((size, size), int)
    np.add.at(table, (before, after), 1)
    return table


def _commonest(table: Int[np.ndarray, "E E"], names: list[str]) -> str:
    away = table - np.diag(np.diag(table))
    if not away.any():
        return "No answer turned right with another expert in the lead."
    i, j = np.unravel_index(away.argmax(), away.shape)
    times = "once" if away[i, j] == 1 else f"{away[i, j]:,} times"
    return f"Among answers that turned right, the commonest change is {names[i]} to {names[j]}, {times}."


def _draw(tables: dict[str, Int[np.ndarray, "E E"]], names: list[str], narrow: bool) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap

    size = len(names)
    side = 0.3 * size + 1.1
    figure = new_figure(narrow, 2 * side + 0.3, 4 * side + 0.2)
    grid = figure.subplots(4, 1) if narrow else figure.subplots(2, 2)
    for axes, (kind, table) in zip(grid.ravel(), tables.items(), strict=True):
        paint = LinearSegmentedColormap.from_list(kind, ["#ffffff", KIND_COLORS[kind]])
        axes.imshow(table, cmap=paint, vmin=0, vmax=max(1, 1.15 * table.max()), aspect="auto")
        for (i, j), number in np.ndenumerate(table):
            if number:
                dark = number > 0.55 * table.max()
                axes.text(
                    j, i, f"{number:,}", ha="center", va="center", fontsize=8, color="white" if dark else "#1a1a1a"
                )
        axes.set_title(f"{kind}: {count(int(table.sum()), 'answer')}")
        axes.set_xticks(range(size), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(size), names)
        axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#dddddd", linewidth=0.7)
        axes.tick_params(which="both", length=0)
        axes.set_xlabel("after")
        axes.set_ylabel("router")
    return figure
