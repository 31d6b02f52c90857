"""Accuracy of every strategy with its 95 % interval, and of all benchmarks of a run in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin
from typing import Any

from r2t2_jax.methods import BASE
from r2t2_jax.reporting.axes import (
    GRID,
    Area,
    draw_axes,
    draw_legend,
    legend_height,
    marker_key,
    name_axis,
    number_axis,
    with_margin,
)
from r2t2_jax.reporting.drawing import Drawing, Point, fit_text, path_data
from r2t2_jax.reporting.formatting import join_names, percent
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.roles import BOUND, CONTROL, METHOD, role
from r2t2_jax.reporting.style import BLACK, BLUE, GRAY, MARKERS, ORANGE, SERIES, FigureSpec, new_drawing

ROLE_MARKERS = {METHOD: ("o", BLUE, BLUE), CONTROL: ("s", "white", GRAY), BOUND: ("D", ORANGE, ORANGE)}
LEGEND = {METHOD: "re-routing", CONTROL: "control", BOUND: "reference point"}


def accuracy_figure(results: ModelResults) -> FigureSpec:
    """One row per strategy: a marker at its accuracy, a line over its 95 % interval; groups as in the table."""
    strategies = _by_group(results)
    base = strategies[BASE]["accuracy"]
    better = [name for name, row in strategies.items() if row["ci95"][0] > base and role(name) == METHOD]
    text = (
        "Each marker is the share of questions answered correctly, its line the 95 % interval (Wilson). "
        "The dashed line is the unmodified model. "
    )
    if len(better) == 1:
        text += f"The interval of one re-routing method lies entirely to its right: {better[0]}."
    elif better:
        text += f"The intervals of {len(better)} re-routing methods lie entirely to its right: {', '.join(better)}."
    else:
        text += "No re-routing method's interval lies entirely to its right."
    return FigureSpec(
        "accuracy",
        "Accuracy of every strategy",
        f"Accuracy with 95 % intervals of {len(strategies)} strategies on {results.name}; "
        + "; ".join(f"{name} {percent(row['accuracy'])} %" for name, row in strategies.items()),
        text,
        lambda narrow: _draw(results, narrow),
        [{"strategy": name, **_measures(row)} for name, row in strategies.items()],
    )


def _by_group(results: ModelResults) -> dict[str, Any]:
    """The summary's rows, in the order of `ModelResults.groups`."""
    return {name: results.summary["strategies"][name] for names in results.groups.values() for name in names}


def _measures(row: dict) -> dict[str, float]:
    low, high = row["ci95"]
    return {"accuracy": row["accuracy"], "ci95_low": low, "ci95_high": high}


def _draw(results: ModelResults, narrow: bool) -> Drawing:
    strategies = _by_group(results)
    drawing = new_drawing(narrow, 19.5 * len(strategies) + 65)
    top = draw_role_legend(drawing, {role(name) for name in strategies})
    bounds = with_margin([100 * bound for row in strategies.values() for bound in row["ci95"]])
    x = number_axis(*bounds, "questions answered correctly, %", grid=True, most=5 if narrow else 8)
    area = Area(0, top, drawing.width, drawing.height)
    axes = draw_axes(drawing, area, x, name_axis(list(strategies), downward=True))
    axes.dashed_line(x=100 * strategies[BASE]["accuracy"])
    for place, (name, row) in enumerate(strategies.items()):
        marker, face, edge = ROLE_MARKERS[role(name)]
        low, high = (100 * bound for bound in row["ci95"])
        axes.line([(low, place), (high, place)], edge)
        axes.marker(100 * row["accuracy"], place, marker, face, edge)
    return drawing


def draw_role_legend(drawing: Drawing, present: set[str]) -> float:
    """Draw the legend of markers by role; returns its height."""
    keys = [(label, marker_key(*ROLE_MARKERS[key])) for key, label in LEGEND.items() if key in present]
    draw_legend(drawing, keys, columns=3)
    return legend_height(len(keys), 3)


AXES = 3  # fewer benchmarks make no polygon
RINGS = (0.2, 0.4, 0.6, 0.8, 1.0)
LINES = 5  # strategies at most, `base` among them


def radar_figure(results: Sequence[ModelResults]) -> FigureSpec | None:
    """Accuracy on all benchmarks of a run, one axis each and one polygon per strategy (R2-T2, figure 1)."""
    if len(results) < AXES:
        return None
    shared = [name for name in results[0].strategies if all(name in model.strategies for model in results)]
    names = [BASE, *(name for name in shared if name != BASE and role(name) == METHOD)][:LINES]
    if len(names) < 2:
        return None
    labels = axis_names([model.name for model in results])
    shares = {name: [model.summary["strategies"][name]["accuracy"] for model in results] for name in names}
    better = {name: sum(a > b for a, b in zip(shares[name], shares[BASE], strict=True)) for name in names[1:]}
    text = "One axis per benchmark, from 0 % at the center to 100 % of the questions answered correctly. " + " ".join(
        f"{name} is above {BASE} on {count} of {len(results)} benchmarks." for name, count in better.items()
    )
    return FigureSpec(
        "radar",
        "All benchmarks",
        f"Accuracy of {join_names(names)} on {len(results)} benchmarks: "
        + "; ".join(f"{label} {percent(shares[BASE][i])} % {BASE}" for i, label in enumerate(labels)),
        text,
        lambda narrow: _draw_radar(labels, shares, narrow),
        [{"benchmark": model.name, **{name: shares[name][i] for name in names}} for i, model in enumerate(results)],
    )


def axis_names(titles: Sequence[str]) -> list[str]:
    """The titles without what all have in front: the benchmarks of one model, else the titles."""
    models = {title.partition(" on ")[0] for title in titles}
    return [title.partition(" on ")[2] or title for title in titles] if len(models) == 1 else list(titles)


def _draw_radar(labels: Sequence[str], shares: dict[str, list[float]], narrow: bool) -> Drawing:
    drawing = new_drawing(narrow, 331, 288)
    columns = 2 if narrow else 5
    below = legend_height(len(shares), columns)
    middle, radius = (drawing.width / 2, (drawing.height - below) / 2), (drawing.height - below) / 2 - 26

    def at(axis: int, share: float) -> Point:
        angle = 2 * pi * axis / len(labels)
        return middle[0] + share * radius * sin(angle), middle[1] - share * radius * cos(angle)

    def polygon(values: Sequence[float]) -> list[Point]:
        return [at(axis, value) for axis, value in enumerate([*values, values[0]])]

    for ring in RINGS:
        drawing.line(polygon([ring] * len(labels)), GRID, 0.7)
    for axis, label in enumerate(labels):
        (x, y), side = at(axis, 1.0), sin(2 * pi * axis / len(labels))
        drawing.line([middle, (x, y)], GRID, 0.7)
        anchor = "middle" if abs(side) < 0.1 else "start" if side > 0 else "end"
        room = (drawing.width if anchor == "middle" else drawing.width - x if side > 0 else x) - 8
        away = 5 * (x - middle[0]) / radius, 9 * (y - middle[1]) / radius
        drawing.text((x + away[0], y + away[1]), fit_text(label, room), anchor)
    keys = []
    for (name, values), color, marker in zip(shares.items(), (BLACK, *SERIES), ("x", *MARKERS), strict=False):
        outline = polygon(values)
        drawing.area(path_data(outline[0], ("L", outline[1:])), color, 0.06)
        drawing.line(outline, color, 1.4)
        for place in outline[:-1]:
            drawing.marker(place, marker, color, size=4)
        keys.append((name, marker_key(marker, color, size=4, with_line=True)))
    for ring in RINGS:
        drawing.text((middle[0] + 3, middle[1] - ring * radius), f"{100 * ring:.0f}", size=7.5)
    draw_legend(drawing, keys, columns, drawing.height - below + 2, centered=True)
    return drawing
