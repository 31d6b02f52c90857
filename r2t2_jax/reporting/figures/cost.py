"""Accuracy against forward passes per sample, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from r2t2_jax.costs.ladder import CostTable, MethodCost
from r2t2_jax.methods import BASE
from r2t2_jax.reporting.figures.accuracy import ROLE_MARKERS, role_legend
from r2t2_jax.reporting.formatting import percent
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.roles import METHOD, role
from r2t2_jax.reporting.style import BLACK, BLUE, GRAY, FigureSpec, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABEL = 11  # points from one label to the next
AROUND = 70  # points of the figure's height outside the axes
HEIGHT, NARROW_HEIGHT = 4.0, 4.4  # inches


def cost_figure(results: ModelResults) -> FigureSpec:
    """One marker per strategy; labels that would overlap are moved apart."""
    strategies = results.summary["strategies"]
    methods = {name: row for name, row in strategies.items() if role(name) == METHOD and name != BASE}
    best = max(methods, key=lambda name: methods[name]["accuracy"], default=BASE)
    base = strategies[BASE]
    text = (
        "Further right costs more; higher is better. An evaluation is one forward pass that "
        "depends on the routing. A value with its gradient counts two; the router's own pass and the final answer "
        "count one each. "
    )
    if best == BASE:
        text += "The run has no re-routing method."
    elif methods[best]["accuracy"] <= base["accuracy"]:
        text += "No re-routing method is more accurate than the unmodified model, at any cost."
    else:
        text += (
            f"The best re-routing method, {best}, answers {percent(methods[best]['accuracy'])} % correctly with "
            f"{_evaluations(methods[best])} per sample; the unmodified model {percent(base['accuracy'])} % with "
            f"{_evaluations(base)}."
        )
    return FigureSpec(
        "cost",
        "Accuracy against evaluations",
        f"Accuracy against evaluations per sample on {results.name}: "
        + "; ".join(
            f"{name} {percent(row['accuracy'])} % at {row['evaluations_per_sample']:g}"
            for name, row in strategies.items()
        ),
        text,
        lambda narrow: _draw(results, narrow),
        [
            {"strategy": name, "evaluations_per_sample": row["evaluations_per_sample"], "accuracy": row["accuracy"]}
            for name, row in strategies.items()
        ],
    )


def _evaluations(row: Mapping[str, Any]) -> str:
    count = row["evaluations_per_sample"]
    return "1 evaluation" if count == 1 else f"{count:g} evaluations"


def _draw(results: ModelResults, narrow: bool) -> Figure:
    strategies = results.summary["strategies"]
    points = {name: (row["evaluations_per_sample"], 100 * row["accuracy"]) for name, row in strategies.items()}
    return scatter(points, narrow, "evaluations per sample (logarithmic)")


def scatter(points: Mapping[str, tuple[float, float]], narrow: bool, label: str) -> Figure:
    """One marker per strategy: cost, with the label of the axis, against accuracy in percent.

    A logarithmic axis has no zero: strategies without cost are drawn to the left of all others, at a tick labeled 0.
    """
    zero = min((x for x, _ in points.values() if x > 0), default=1.0) / 2
    free = any(x == 0 for x, _ in points.values())
    points = {name: (x or zero, y) for name, (x, y) in points.items()}
    narrow_height = max(NARROW_HEIGHT, (LABEL * len(points) + AROUND) / 72)
    figure = new_figure(narrow, HEIGHT, narrow_height)
    axes = figure.subplots()
    cheapest, most_expensive = min(x for x, _ in points.values()), max(x for x, _ in points.values())
    middle = math.sqrt(cheapest * most_expensive)
    on_left = {name: x <= middle for name, (x, _) in points.items()}
    # A narrow drawing has no room for two labels at one height; a wide one has, to the left and to the right.
    sides = [list(points)] if narrow else [[name for name in points if on_left[name] == left] for left in (True, False)]
    height = 72 * (narrow_height if narrow else HEIGHT) - AROUND
    places, low, high = label_places(points, sides, LABEL / height)
    axes.axhline(points[BASE][1], color=BLACK, linestyle=(0, (4, 3)), linewidth=0.9)
    for name, (x, y) in points.items():
        mark, face, edge = ROLE_MARKERS[role(name)]
        axes.plot([x], [y], mark, markerfacecolor=face, markeredgecolor=edge, zorder=3)
    for name, place in places.items():  # to the right of cheap strategies and to the left of expensive ones
        x, y = points[name]
        label_text = axes.annotate(
            name,
            (x, y),
            (x * 1.35 if on_left[name] else x / 1.35, place),
            ha="left" if on_left[name] else "right",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            arrowprops={"arrowstyle": "-", "color": GRAY, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3},
        )
        label_text.set_in_layout(False)  # it is inside the axes
    axes.set_xscale("log")
    axes.set_xlim(cheapest / 1.4, max(most_expensive, 10 * cheapest) * 1.4)
    axes.set_ylim(low, high)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if tick <= most_expensive * 1.4]
    axes.set_xticks([zero] * free + ticks, ["0"] * free + [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel("questions answered correctly, %")
    axes.grid()
    role_legend(figure, axes, {role(name) for name in points})
    return figure


def label_places(
    points: Mapping[str, tuple[float, float]], sides: Sequence[Sequence[str]], share: float
) -> tuple[dict[str, float], float, float]:
    """Heights of labels that do not overlap, and the limits of an axis that holds markers and labels.

    Args:
        points: cost and accuracy in percent by name.
        sides: names whose labels must not be at one height.
        share: smallest distance of two labels, as a share of the axis.
    """
    low, high = min(y for _, y in points.values()), max(y for _, y in points.values())
    margin = max(0.1 * (high - low), 2.0)
    low, high = max(low - margin, -3.0), min(high + margin, 103.0)
    for _ in range(10):  # labels that need more room widen the axis, which takes them apart again
        gap = share * (high - low)
        places: dict[str, float] = {}
        for side in sides:
            places |= spread({name: points[name][1] for name in side}, gap)
        if min(places.values()) >= low + gap / 2 and max(places.values()) <= high - gap / 2:
            break
        low, high = min(low, min(places.values()) - gap), max(high, max(places.values()) + gap)
    return places, low, high


def spread(places: dict[str, float], gap: float) -> dict[str, float]:
    """Heights of labels, at least `gap` apart: labels that would overlap are spaced evenly around their mean."""
    order = sorted(places, key=lambda name: places[name])
    clusters: list[list[str]] = []
    for name in order:
        clusters.append([name])
        while len(clusters) > 1 and _bottom(clusters[-1], places, gap) < _top(clusters[-2], places, gap) + gap:
            last = clusters.pop()
            clusters[-1] += last
    return {
        name: _bottom(cluster, places, gap) + gap * rank for cluster in clusters for rank, name in enumerate(cluster)
    }


def _bottom(cluster: list[str], places: dict[str, float], gap: float) -> float:
    center = sum(places[name] for name in cluster) / len(cluster)
    return center - gap * (len(cluster) - 1) / 2


def _top(cluster: list[str], places: dict[str, float], gap: float) -> float:
    return _bottom(cluster, places, gap) + gap * (len(cluster) - 1)


X_AXIS = "FLOPs per sample, in units of the base as written (logarithmic)"


def cost_table_figure(table: CostTable, accuracies: Mapping[str, float] | None = None) -> FigureSpec:
    """Accuracy against cost, with NGD at its cheapest variant; without accuracies, bars of the costs.

    Args:
        table: of costs.
        accuracies: by strategy, between 0 and 1; the untouched model is among them.
    """
    if accuracies is None:
        rows = [*table.rows, *table.variants]
        text = f"Each bar is the FLOPs per sample of {table.model}; ngd from the literal variant to the cheapest."
        return _figure_spec(table, rows, text, lambda narrow: _bars(table, narrow))
    rows = [row for row in _by_strategy(table).values() if row.method in accuracies]
    points = {row.method: (table.times_base(row), 100 * accuracies[row.method]) for row in rows}
    text = f"Further right costs more. FLOPs per sample of {table.model}, ngd at its cheapest variant."
    return _figure_spec(table, rows, text, lambda narrow: scatter(points, narrow, X_AXIS))


def _by_strategy(table: CostTable) -> dict[str, MethodCost]:
    cheapest = replace(table.variants[-1], method="ngd")
    return {row.method: row for row in (*table.rows[1:], cheapest)}


def _figure_spec(table: CostTable, rows: list[MethodCost], text: str, draw: Callable[[bool], Figure]) -> FigureSpec:
    return FigureSpec(
        "costs",
        "Cost of every method",
        text + " " + "; ".join(f"{row.method} {table.times_base(row):.3g} x base" for row in rows),
        text,
        draw,
        [{"method": row.method, "flops": row.flops, "times_base": table.times_base(row)} for row in rows],
    )


def _bars(table: CostTable, narrow: bool) -> Figure:
    rows = [(row.method.replace("_", " "), table.times_base(row), GRAY) for row in table.rows]
    rows += [(f"ngd: {row.method}", table.times_base(row), BLUE) for row in table.variants]
    figure = new_figure(narrow, 4.6)
    axes = figure.subplots()
    names, costs, colors = zip(*reversed(rows), strict=True)
    axes.barh(names, costs, color=colors, left=0)
    for place, cost in enumerate(costs):
        axes.annotate(f"{cost:.3g}", (cost, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")  # the default writes powers as mathematics
    axes.set_xlim(min(costs) / 2, max(costs) * 3)
    axes.set_xlabel("x base (logarithmic)" if narrow else X_AXIS)
    return figure
