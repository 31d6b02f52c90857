"""Accuracy of every strategy with its 95 % interval, compared with the unmodified model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2t2_jax.reporting.formatting import percent
from r2t2_jax.reporting.results import BASE, ModelResults
from r2t2_jax.reporting.roles import BOUND, CONTROL, METHOD, role
from r2t2_jax.reporting.style import BLACK, BLUE, GRAY, ORANGE, FigureSpec, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROLE_MARKERS = {METHOD: ("o", BLUE, BLUE), CONTROL: ("s", "white", GRAY), BOUND: ("D", ORANGE, ORANGE)}
LEGEND = {METHOD: "re-routing", CONTROL: "control", BOUND: "upper bound"}


def accuracy_figure(results: ModelResults) -> FigureSpec:
    """One row per strategy: a marker at its accuracy, a line over its 95 % interval."""
    strategies = results.summary["strategies"]
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


def _measures(row: dict) -> dict[str, float]:
    low, high = row["ci95"]
    return {"accuracy": row["accuracy"], "ci95_low": low, "ci95_high": high}


def _draw(results: ModelResults, narrow: bool) -> Figure:
    strategies = results.summary["strategies"]
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
