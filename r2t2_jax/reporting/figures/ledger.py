"""What every method costs a case, on a logarithmic scale; against its accuracy where a run tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from r2t2_jax.evaluation.ledger import Ledger, Row
from r2t2_jax.reporting.figures.cost import scatter
from r2t2_jax.reporting.style import BLUE, GREY, Picture, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRICE = "FLOPs a case, in units of the base as written (logarithmic)"


def ledger_picture(found: Ledger, accuracies: Mapping[str, float] | None = None) -> Picture:
    """Marks at cost and accuracy, NGD at its cheapest rung; without accuracies, bars.

    Args:
        found: the costs.
        accuracies: by strategy, as shares; the untouched model's among them.
    """
    if accuracies is None:
        rows = [*found.rows, *found.rungs]
        text = f"Each bar is the FLOPs of a case of {found.model}; those of ngd from the literal one to the cheapest."
        return _picture(found, rows, text, lambda narrow: _bars(found, narrow))
    rows = [row for row in _comparable(found).values() if row.method in accuracies]
    points = {row.method: (found.times_base(row), 100 * accuracies[row.method]) for row in rows}
    text = f"To the right is dearer, up is better. FLOPs of a case of {found.model}, ngd by its cheapest rung."
    return _picture(found, rows, text, lambda narrow: scatter(points, narrow, PRICE))


def _comparable(found: Ledger) -> dict[str, Row]:
    """Rows by the strategy they are the costs of."""
    cheapest = Row(**{**vars(found.rungs[-1]), "method": "ngd"})
    return {row.method: row for row in (*found.rows[1:], cheapest)}


def _picture(found: Ledger, rows: list[Row], text: str, draw: Callable[[bool], Figure]) -> Picture:
    return Picture(
        "ledger",
        "What every method costs",
        text + " " + "; ".join(f"{row.method} {found.times_base(row):.3g} x base" for row in rows),
        text,
        draw,
        [{"method": row.method, "flops": row.flops, "times_base": found.times_base(row)} for row in rows],
    )


def _bars(found: Ledger, narrow: bool) -> Figure:
    rows = [(row.method.replace("_", " "), found.times_base(row), GREY) for row in found.rows]
    rows += [(f"ngd: {row.method}", found.times_base(row), BLUE) for row in found.rungs]
    figure = new_figure(narrow, 4.6)
    axes = figure.subplots()
    names, costs, colors = zip(*reversed(rows), strict=True)
    axes.barh(names, costs, color=colors, left=0)
    for place, cost in enumerate(costs):
        axes.annotate(f"{cost:.3g}", (cost, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 2, max(costs) * 3)
    axes.set_xlabel("x base (logarithmic)" if narrow else PRICE)
    return figure
