"""The expert with the largest weight, before and after re-routing (R2-T2, Figures 4 and 11 to 14).

Axis letters: B test samples, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from r2t2_jax.reporting.axes import Area, draw_axes, name_axis
from r2t2_jax.reporting.drawing import Drawing
from r2t2_jax.reporting.examples import OUTCOMES, outcomes_of
from r2t2_jax.reporting.formatting import percent, plural
from r2t2_jax.reporting.results import ModelResults, StrategyRows
from r2t2_jax.reporting.style import OUTCOME_COLORS, FigureSpec, new_drawing

MAX_ROWS = 8  # experts with a row of their own; the others share one
MAX_SHIFTS = 12  # experts whose mean weights are listed
DARK = 0.55  # share of the largest count from which a cell has white digits


@dataclass(frozen=True)
class ExpertChanges:
    """The leading expert of each sample under the router and under the explained strategy.

    Args:
        names: of the experts with a row of their own, and `others`.
        tables: for each outcome, numbers of samples by leading expert before (row) and after (column).
        text: what the tables show, in sentences.
        shifts: names of the experts whose mean weight changes most, with that weight before and after in percent.
        changed: share of the samples whose leading expert changes.
    """

    names: Sequence[str]
    tables: Mapping[str, Int[np.ndarray, "E E"]]
    text: str
    shifts: Sequence[tuple[str, float, float]]
    changed: float

    @property
    def largest_weight(self) -> float:
        """The largest weight of `shifts`."""
        return max(weight for _, *weights in self.shifts for weight in weights)


def experts_figure(results: ModelResults) -> FigureSpec | None:
    """A table of counts for each outcome: rows are the router's leading expert, columns the one after re-routing."""
    changes = expert_changes(results)
    if changes is None:
        return None
    names, tables = changes.names, changes.tables
    return FigureSpec(
        "experts",
        "The leading expert before and after re-routing",
        f"Counts of the leading expert before and after re-routing on {results.name}, by outcome of the answer; "
        f"it changes for {percent(changes.changed)} % of the questions",
        changes.text,
        lambda narrow: _draw(tables, names, narrow),
        [
            {"outcome": outcome, "before": names[i], "after": names[j], "questions": int(table[i, j])}
            for outcome, table in tables.items()
            for i in range(len(names))
            for j in range(len(names))
        ],
    )


def expert_changes(results: ModelResults) -> ExpertChanges | None:
    """`None` if no strategy re-routed, or the model has only one expert."""
    explained = results.explained
    if explained is None or len(results.experts) < 2:
        return None
    before, after = _leading_expert(results.router_weights), _leading_expert(explained.weights)  # [B]
    names, row = _rows_of_experts(results, np.concatenate([before, after]))
    outcomes = np.array(outcomes_of(results, explained))
    tables = {
        name: _counts(row[before[outcomes == name]], row[after[outcomes == name]], len(names)) for name in OUTCOMES
    }
    changed = float((before != after).mean())
    preferred = int(np.bincount(before).argmax())
    diagonal = "on the diagonal it does not change" if len(names) == len(results.experts) else "others share one row"
    text = (
        f"Rows are the expert with the largest weight under the router, columns under {explained.name}"
        f"{_averaged(results)}; {diagonal}. It changes for {percent(changed)} % of the "
        f"questions. The router prefers {results.experts[preferred]}, which leads for "
        f"{percent(float((before == preferred).mean()))} % of the questions before and for "
        f"{percent(float((after == preferred).mean()))} % after re-routing. "
        f"{_most_frequent_change(before, after, outcomes == 'wrong → right', results.experts)}"
    )
    return ExpertChanges(names, tables, text, _shifts(results, explained), changed)


def _shifts(results: ModelResults, explained: StrategyRows) -> list[tuple[str, float, float]]:
    """The experts whose mean weight changes most, in their order in the model; weights in percent."""
    before, after = (100 * weights.mean(axis=(0, 1)) for weights in (results.router_weights, explained.weights))  # [E]
    largest = np.sort(np.argsort(-np.abs(after - before), kind="stable")[:MAX_SHIFTS])
    return [(results.experts[i], float(before[i]), float(after[i])) for i in largest]


def _averaged(results: ModelResults) -> str:
    return f" (mean of the {len(results.layers)} layers)" if len(results.layers) > 1 else ""


def _leading_expert(weights: Float[np.ndarray, "B L E"]) -> Int[np.ndarray, "B"]:
    return weights.mean(axis=1).argmax(axis=1)


def _rows_of_experts(results: ModelResults, leading: Int[np.ndarray, "n"]) -> tuple[list[str], Int[np.ndarray, "E"]]:
    """Names of the rows of a table, and the row of each expert: all but the most frequent ones share the last."""
    if len(results.experts) <= MAX_ROWS:
        return list(results.experts), np.arange(len(results.experts))
    total = np.bincount(leading, minlength=len(results.experts))
    largest = np.sort(np.argsort(-total, kind="stable")[:MAX_ROWS])
    row = np.full(len(results.experts), MAX_ROWS)
    row[largest] = np.arange(MAX_ROWS)
    return [*(results.experts[i] for i in largest), "others"], row


def _counts(before: Int[np.ndarray, "B"], after: Int[np.ndarray, "B"], size: int) -> Int[np.ndarray, "E E"]:
    table = np.zeros((size, size), int)
    np.add.at(table, (before, after), 1)
    return table


def _most_frequent_change(
    before: Int[np.ndarray, "B"], after: Int[np.ndarray, "B"], corrected: Bool[np.ndarray, "B"], names: Sequence[str]
) -> str:
    """The most frequent change of the leading expert among answers that turned right."""
    changes = corrected & (before != after)
    if not changes.any():
        return "No answer turned right with a change of the leading expert."
    pairs, counts = np.unique(np.stack([before[changes], after[changes]], axis=1), axis=0, return_counts=True)
    (i, j), number = pairs[counts.argmax()], int(counts.max())
    times = "once" if number == 1 else f"{number:,} times"
    return f"Among answers that turned right, the most frequent change is {names[i]} to {names[j]}, {times}."


def _draw(tables: Mapping[str, Int[np.ndarray, "E E"]], names: Sequence[str], narrow: bool) -> Drawing:
    side = 21.6 * len(names) + 80
    drawing = new_drawing(narrow, 2 * side, 4 * side)
    columns = 1 if narrow else 2
    width = drawing.width / columns
    names_before, names_after = name_axis(names, "router", downward=True), name_axis(names, "after", angle=40)
    for number, (outcome, table) in enumerate(tables.items()):
        row, column = divmod(number, columns)
        area = Area(column * width, row * side, (column + 1) * width - 4, (row + 1) * side)
        title = f"{outcome}: {plural(int(table.sum()), 'answer')}"
        axes = draw_axes(drawing, area, names_after, names_before, title)
        for (i, j), count in np.ndenumerate(table):
            axes.bar((j - 0.5, i - 0.5), (j + 0.5, i + 0.5), _shade(outcome, count / max(1, table.max())), "#dddddd")
            if count:
                color = "white" if count > DARK * table.max() else "#1a1a1a"
                drawing.text(axes.at(j, i), f"{count:,}", "middle", size=8, color=color)
    return drawing


def _shade(outcome: str, share: float) -> str:
    """The outcome's color mixed with white, the stronger the larger the share is."""
    color = bytes.fromhex(OUTCOME_COLORS[outcome].removeprefix("#"))
    return "#" + bytes(round(255 - (255 - part) * share / 1.15) for part in color).hex()
