"""Accuracy by question family: the unmodified model, the explained strategy, and the reference points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r2t2_jax.methods import BASE
from r2t2_jax.reporting.formatting import join_names, signed
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.style import BLUE, GRAY, GREEN, ORANGE, VERMILLION, FigureSpec, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOUNDS = ("oracle", "task_routing")


def families_figure(results: ModelResults) -> FigureSpec | None:
    """One line per family from the accuracy before to that after; the largest gain first."""
    if results.explained is None or len(results.summary["families"]) < 2:
        return None
    name = results.explained.name
    gains = _gains(results, name)
    best, largest = max(gains.items(), key=lambda item: item[1])
    text = f"From the unmodified model (hollow) to {name} (filled). "
    text += f"The largest gain is {signed(largest)} points ({best}). "
    losses = [f"{family} ({signed(gain)})" for family, gain in gains.items() if gain < 0]
    text += f"Accuracy falls for {join_names(losses)}." if losses else "Accuracy falls in no family."
    return FigureSpec(
        "families",
        "Accuracy by family",
        f"Accuracy by question family on {results.name}, gain of {name} in points: "
        + "; ".join(f"{family} {signed(gain)}" for family, gain in gains.items()),
        text,
        lambda narrow: _draw(results, name, narrow),
        [{"family": family, "n": row["n"], **row["accuracy"]} for family, row in results.summary["families"].items()],
    )


def family_rows(results: ModelResults) -> list[dict[str, Any]]:
    """For each family accuracies in percent, and the gain of the explained strategy in points, the largest first."""
    assert results.explained is not None
    name = results.explained.name
    rows = []
    for family, gain in _gains(results, name).items():
        numbers = results.summary["families"][family]
        accuracy = {key: 100 * share for key, share in numbers["accuracy"].items()}
        marks = {key: accuracy[key] for key in BOUNDS if key in accuracy and key != name}
        row = {"family": family, "n": numbers["n"], "before": accuracy[BASE], "after": accuracy[name], "gain": gain}
        rows.append(row | {"marks": marks})
    return rows


def _gains(results: ModelResults, name: str) -> dict[str, float]:
    """Gain in points by family, the largest first."""
    gains = {
        family: 100 * (row["accuracy"][name] - row["accuracy"][BASE])
        for family, row in results.summary["families"].items()
    }
    return dict(sorted(gains.items(), key=lambda item: -item[1]))


def _draw(results: ModelResults, name: str, narrow: bool) -> Figure:
    gains = _gains(results, name)
    figure = new_figure(narrow, 0.34 * len(gains) + 0.9)
    axes = figure.subplots()
    labels = []
    for position, (family, gain) in enumerate(gains.items()):
        row = results.summary["families"][family]
        labels.append(f"{family or 'unnamed'} ({row['n']})")
        before, after = (100 * row["accuracy"][key] for key in (BASE, name))
        color = VERMILLION if gain < 0 else BLUE
        axes.plot([before, after], [position, position], color=color, linewidth=2.4, solid_capstyle="butt", zorder=2)
        axes.plot([before], [position], "o", markerfacecolor="white", markeredgecolor=GRAY, zorder=3)
        axes.plot([after], [position], "v" if gain < 0 else "o", color=color, zorder=3)
        for bound, marker, color in zip(BOUNDS, ("d", "|"), (ORANGE, GREEN), strict=True):
            if bound in row["accuracy"]:
                axes.plot([100 * row["accuracy"][bound]], [position], marker, color=color, markersize=7, zorder=1)
        axes.annotate(
            signed(gain),
            (1.02, position),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color="#333333",
        )
    axes.plot([], [], "o", markerfacecolor="white", markeredgecolor=GRAY, label=BASE)
    axes.plot([], [], "o", color=BLUE, label=name)
    for bound, marker, color in zip(BOUNDS, ("d", "|"), (ORANGE, GREEN), strict=True):
        if bound in results.strategies:
            axes.plot([], [], marker, color=color, linestyle="none", markersize=7, label=bound)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("questions answered correctly, %")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    columns = 2 if narrow else 4
    figure.legend(loc="outside upper right", ncols=columns, handletextpad=0.2, columnspacing=1.2)
    return figure
