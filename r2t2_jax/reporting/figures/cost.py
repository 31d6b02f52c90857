"""Accuracy against forward passes per sample, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from r2t2_jax.costs.ladder import CostTable, MethodCost
from r2t2_jax.methods import BASE
from r2t2_jax.reporting.axes import Area, Axis, draw_axes, name_axis, number_axis
from r2t2_jax.reporting.drawing import Drawing, text_width
from r2t2_jax.reporting.figures.accuracy import ROLE_MARKERS, draw_role_legend
from r2t2_jax.reporting.formatting import percent
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.roles import METHOD, role
from r2t2_jax.reporting.style import BLUE, GRAY, FigureSpec, new_drawing

LABEL = 11  # points from one label to the next
AROUND = 60  # points of the figure's height outside the axes
HEIGHT, NARROW_HEIGHT = 288, 317  # points
LABEL_SIZE = 8


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


def _draw(results: ModelResults, narrow: bool) -> Drawing:
    strategies = results.summary["strategies"]
    points = {name: (row["evaluations_per_sample"], 100 * row["accuracy"]) for name, row in strategies.items()}
    return draw_scatter(points, narrow, "evaluations per sample (logarithmic)")


def draw_scatter(points: Mapping[str, tuple[float, float]], narrow: bool, label: str) -> Drawing:
    """One marker per strategy: cost, with the label of the axis, against accuracy in percent.

    A logarithmic axis has no zero: strategies without cost are drawn to the left of all others, at a tick labeled 0.
    """
    x = cost_axis([cost for cost, _ in points.values()], label)
    zero = next(iter(x.ticks))
    points = {name: (cost or zero, y) for name, (cost, y) in points.items()}
    drawing = new_drawing(narrow, HEIGHT, max(NARROW_HEIGHT, LABEL * len(points) + AROUND))
    costs = [cost for cost, _ in points.values()]
    middle = math.sqrt(min(costs) * max(costs))
    on_left = {name: cost <= middle for name, (cost, _) in points.items()}
    # A narrow drawing has no room for two labels at one height; a wide one has, to the left and to the right.
    sides = [list(points)] if narrow else [[name for name in points if on_left[name] == left] for left in (True, False)]
    places, low, high = label_places(points, sides, LABEL / (drawing.height - AROUND))
    y = number_axis(low, high, "questions answered correctly, %", grid=True)
    top = draw_role_legend(drawing, {role(name) for name in points})
    axes = draw_axes(drawing, Area(0, top, drawing.width, drawing.height), x, y)
    axes.dashed_line(y=points[BASE][1])
    ends = {name: (points[name][0] * (1.35 if on_left[name] else 1 / 1.35), place) for name, place in places.items()}
    for name, end in ends.items():
        axes.line([points[name], end], GRAY, 0.6)
    for name, end in ends.items():  # to the right of cheap strategies and to the left of expensive ones
        (left, height), width = axes.at(*end), text_width(name, LABEL_SIZE)
        left -= 0 if on_left[name] else width
        drawing.rectangle((left - 1, height - 5), (width + 2, 10), "white")
        drawing.text((left, height), name, size=LABEL_SIZE)
    for name, point in points.items():
        axes.marker(*point, *ROLE_MARKERS[role(name)])
    return drawing


def cost_axis(costs: Sequence[float], label: str) -> Axis:
    """A logarithmic axis; if there are strategies without cost, its first tick is theirs, labeled 0."""
    zero = min((cost for cost in costs if cost > 0), default=1.0) / 2
    shown = [cost or zero for cost in costs]
    cheapest, most_expensive = min(shown), max(shown)
    ticks = {zero: "0"} if 0 in costs else {}
    ticks |= {tick: f"{tick:,}" for tick in (base * 10**power for power in range(4) for base in (1, 2, 5))}
    limits = cheapest / 1.4, max(most_expensive, 10 * cheapest) * 1.4
    ticks = {tick: text for tick, text in ticks.items() if limits[0] <= tick <= most_expensive * 1.4}
    return Axis(*limits, ticks, label, grid=True, is_log=True)


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
        return _figure_spec(table, rows, text, lambda narrow: _draw_bars(table, narrow))
    rows = [row for row in _by_strategy(table).values() if row.method in accuracies]
    points = {row.method: (table.times_base(row), 100 * accuracies[row.method]) for row in rows}
    text = f"Further right costs more. FLOPs per sample of {table.model}, ngd at its cheapest variant."
    return _figure_spec(table, rows, text, lambda narrow: draw_scatter(points, narrow, X_AXIS))


def _by_strategy(table: CostTable) -> dict[str, MethodCost]:
    cheapest = replace(table.variants[-1], method="ngd")
    return {row.method: row for row in (*table.rows[1:], cheapest)}


def _figure_spec(table: CostTable, rows: list[MethodCost], text: str, draw: Callable[[bool], Drawing]) -> FigureSpec:
    return FigureSpec(
        "costs",
        "Cost of every method",
        text + " " + "; ".join(f"{row.method} {table.times_base(row):.3g} x base" for row in rows),
        text,
        draw,
        [{"method": row.method, "flops": row.flops, "times_base": table.times_base(row)} for row in rows],
    )


def _draw_bars(table: CostTable, narrow: bool) -> Drawing:
    rows = [(row.method.replace("_", " "), table.times_base(row), GRAY) for row in table.rows]
    rows += [(f"ngd: {row.method}", table.times_base(row), BLUE) for row in table.variants]
    drawing = new_drawing(narrow, 331)
    names, costs, colors = zip(*rows, strict=True)
    low, high = min(costs) / 2, max(costs) * 3
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    label = "x base (logarithmic)" if narrow else X_AXIS
    x = Axis(low, high, {10.0**power: f"{10.0**power:g}" for power in powers}, label, is_log=True)
    axes = draw_axes(drawing, Area(0, 0, drawing.width, drawing.height), x, name_axis(names, downward=True))
    for place, (cost, color) in enumerate(zip(costs, colors, strict=True)):
        axes.bar((low, place - 0.4), (cost, place + 0.4), color)
        right, height = axes.at(cost, place)
        drawing.text((right + 3, height), f"{cost:.3g}", size=LABEL_SIZE)
    return drawing
