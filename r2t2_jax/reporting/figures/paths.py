"""Loss and routing weights of single samples, step by step.

Axis letters: P points of a path, Q losses, L routed layers, E experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from r2t2_jax.reporting.cases import KINDS, Chosen
from r2t2_jax.reporting.formatting import shortened
from r2t2_jax.reporting.results import ModelResults, StrategyRows
from r2t2_jax.reporting.style import GREY, KIND_COLORS, MARKS, SERIES, FigureSpec, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = len(SERIES)  # experts with a line of their own


def paths(results: ModelResults, chosen: list[Chosen]) -> FigureSpec | None:
    """For one case of each kind: the neighbourhood's loss above, the experts' weights below."""
    explained = results.explained
    if explained is None or explained.path.shape[1] < 3 or not chosen:
        return None
    cases = [next(case for case in chosen if case.kind == kind) for kind in KINDS if kind in {c.kind for c in chosen}]
    averaged = f", mean of the {len(results.layers)} layers" if len(results.layers) > 1 else ""
    text = (
        f"One case of each kind, numbered as below. Above: the loss that {explained.name} lowers, of the neighbours' "
        f"answers and never of the test sample's. Below: the weight of each expert{averaged}. {_fall(explained)}"
    )
    rows = [
        {
            "case": case.number,
            "kind": case.kind,
            "id": results.ids[case.row],
            "step": step,
            **_point(results, case, step),
        }
        for case in cases
        for step in range(explained.path.shape[1])
    ]
    return FigureSpec(
        "paths",
        "Single samples, step by step",
        f"Loss and routing weights by step of {len(cases)} samples of {results.name}",
        text,
        lambda narrow: _draw(results, explained, cases, narrow),
        rows,
    )


def _point(results: ModelResults, case: Chosen, step: int) -> dict[str, float | None]:
    assert results.explained is not None
    losses = results.explained.losses[case.row]
    weights = results.explained.path[case.row, step].mean(axis=0)
    loss = {"loss": round(float(losses[step]), 6) if step < len(losses) else None}
    return loss | {name: round(float(value), 6) for name, value in zip(results.experts, weights, strict=True)}


def _fall(explained: StrategyRows) -> str:
    """In how many samples the loss ends lower than it began."""
    if explained.losses.shape[1] < 2:
        return ""
    fell = int((explained.losses[:, -1] < explained.losses[:, 0]).sum())
    return f"Over all questions the loss ends lower than it began in {fell:,} of {len(explained.losses):,}."


def _draw(results: ModelResults, explained: StrategyRows, cases: list[Chosen], narrow: bool) -> Figure:
    number = len(cases)
    figure = new_figure(narrow, 4.2, 2.0 * number + 0.8)
    grid = figure.subplots(number, 2, squeeze=False) if narrow else figure.subplots(2, number, squeeze=False).T
    moved = np.abs(explained.path[[case.row for case in cases]].mean(axis=2)).max(axis=(0, 1))  # [E]
    shown = np.sort(np.argsort(-moved, kind="stable")[:SHOWN])
    break_ = ": " if narrow else "\n"
    for column, (case, (above, below)) in enumerate(zip(cases, grid, strict=True)):
        losses, path = explained.losses[case.row], explained.path[case.row].mean(axis=1)  # [Q], [P, E]
        above.plot(range(len(losses)), losses, "o-", color=KIND_COLORS[case.kind], markersize=3.5)
        above.set_ylim(0, 1.08 * max(float(losses.max(initial=0)), 1e-3))
        above.set_title(f"Case {case.number}{break_}{case.kind}")
        for place, expert in enumerate(range(len(results.experts))):
            if expert in shown:
                rank = int(np.searchsorted(shown, expert))
                below.plot(path[:, place], color=SERIES[rank], marker=MARKS[rank], markersize=3.5, linewidth=1.3)
            else:
                below.plot(path[:, place], color=GREY, linewidth=0.7, alpha=0.6)
        for axes, label in ((above, "loss"), (below, "weight")):
            axes.grid(axis="y")
            axes.set_xlim(-0.4, explained.path.shape[1] - 0.6)
            axes.set_xticks(range(0, explained.path.shape[1], 5 if explained.path.shape[1] > 6 else 1))
            if narrow or column == 0:
                axes.set_ylabel(label)
        below.set_ylim(min(-0.03, float(path.min())), max(1.03, float(path.max())))
        below.set_xlabel("step")
    _legend(figure, results, shown, narrow)
    return figure


def _legend(figure: Figure, results: ModelResults, shown: np.ndarray, narrow: bool) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=SERIES[rank], marker=MARKS[rank], label=shortened(results.experts[expert], 16))
        for rank, expert in enumerate(shown)
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3 if narrow else 7, columnspacing=1.2)
