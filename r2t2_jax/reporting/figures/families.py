"""Accuracy by question family: the unmodified model, the explained strategy, and the reference points."""

from __future__ import annotations

from typing import Any

from r2t2_jax.methods import BASE
from r2t2_jax.reporting.axes import Area, draw_axes, draw_legend, legend_height, marker_key, name_axis, number_axis
from r2t2_jax.reporting.drawing import Drawing
from r2t2_jax.reporting.formatting import join_names, signed
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.style import BLUE, GRAY, GREEN, ORANGE, VERMILLION, FigureSpec, new_drawing

BOUNDS = {"oracle": ("d", ORANGE), "task_routing": ("|", GREEN)}  # marker and color of reference points
GAIN_WIDTH = 34  # points right of the axes


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


def _draw(results: ModelResults, name: str, narrow: bool) -> Drawing:
    gains = _gains(results, name)
    drawing, columns = new_drawing(narrow, 24.5 * len(gains) + 65), 2 if narrow else 4
    keys = [(BASE, marker_key("o", "white", GRAY)), (name, marker_key("o", BLUE))]
    keys += [(bound, marker_key(*mark, size=7)) for bound, mark in BOUNDS.items() if bound in results.strategies]
    draw_legend(drawing, keys, columns)
    area = Area(0, legend_height(len(keys), columns), drawing.width - GAIN_WIDTH, drawing.height)
    labels = [f"{family or 'unnamed'} ({results.summary['families'][family]['n']})" for family in gains]
    x = number_axis(-2, 102, "questions answered correctly, %", grid=True, most=6)
    axes = draw_axes(drawing, area, x, name_axis(labels, downward=True))
    for place, (family, gain) in enumerate(gains.items()):
        accuracy = results.summary["families"][family]["accuracy"]
        before, after = (100 * accuracy[key] for key in (BASE, name))
        for bound, mark in BOUNDS.items():
            if bound in accuracy:
                axes.marker(100 * accuracy[bound], place, *mark, size=7)
        color = VERMILLION if gain < 0 else BLUE
        axes.line([(before, place), (after, place)], color, 2.4)
        axes.marker(before, place, "o", "white", GRAY)
        axes.marker(after, place, "v" if gain < 0 else "o", color)
        _, height = axes.at(0, place)
        drawing.text((drawing.width - 2, height), signed(gain), "end")
    return drawing
