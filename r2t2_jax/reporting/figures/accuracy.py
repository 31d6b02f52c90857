"""Accuracy of every strategy with its 95 % interval, and of all benchmarks of a run in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r2t2_jax.methods import BASE
from r2t2_jax.reporting.formatting import join_names, percent
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.roles import BOUND, CONTROL, METHOD, role
from r2t2_jax.reporting.style import BLACK, BLUE, GRAY, MARKERS, ORANGE, SERIES, FigureSpec, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def _draw(results: ModelResults, narrow: bool) -> Figure:
    strategies = _by_group(results)
    figure = new_figure(narrow, 0.27 * len(strategies) + 0.9)
    axes = figure.subplots()
    axes.axvline(100 * strategies[BASE]["accuracy"], color=BLACK, linestyle=(0, (4, 3)), linewidth=0.9)
    for position, (name, row) in enumerate(strategies.items()):
        marker, face, edge = ROLE_MARKERS[role(name)]
        low, high = (100 * bound for bound in row["ci95"])
        axes.plot([low, high], [position, position], color=edge, linewidth=1.6, solid_capstyle="butt")
        axes.plot([100 * row["accuracy"]], [position], marker, markerfacecolor=face, markeredgecolor=edge)
    axes.set_yticks(range(len(strategies)), list(strategies))
    axes.set_ylim(len(strategies) - 0.5, -0.5)
    axes.set_xlabel("questions answered correctly, %")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    role_legend(figure, axes, {role(name) for name in strategies})
    return figure


def role_legend(figure: Figure, axes: Axes, present: set[str]) -> None:
    """The legend of markers by role, above the axes."""
    for key, label in LEGEND.items():
        if key in present:
            marker, face, edge = ROLE_MARKERS[key]
            axes.plot([], [], marker, markerfacecolor=face, markeredgecolor=edge, label=label)
    figure.legend(loc="outside upper right", ncols=3, handletextpad=0.2, columnspacing=1.2)


AXES = 3  # fewer benchmarks make no polygon
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


def _draw_radar(labels: Sequence[str], shares: dict[str, list[float]], narrow: bool) -> Figure:
    figure = new_figure(narrow, 4.6, 4.0)
    axes: Any = figure.add_subplot(projection="polar")
    angles = np.linspace(0, 2 * np.pi, len(labels), endpoint=False)
    closed = np.append(angles, angles[0])
    for name, color, marker in zip(shares, (BLACK, *SERIES), ("x", *MARKERS), strict=False):
        values = 100 * np.append(shares[name], shares[name][0])
        axes.plot(closed, values, color=color, marker=marker, label=name, linewidth=1.4, markersize=4)
        axes.fill(closed, values, color=color, alpha=0.06, linewidth=0)
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, labels)
    axes.set_ylim(0, 100)
    axes.set_yticks([20, 40, 60, 80, 100])
    figure.legend(loc="outside lower center", ncols=2 if narrow else 5, handletextpad=0.3, columnspacing=1.2)
    return figure
