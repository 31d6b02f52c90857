"""Single samples in a report: which ones are selected, and what is shown of each.

Axis letters: B test samples, K neighbors, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from r2t2_jax.evaluation.records import Neighbor, neighbors_of
from r2t2_jax.reporting.images import ImageSheets
from r2t2_jax.reporting.results import ModelResults, StrategyRows

OUTCOMES = ("wrong → right", "right → wrong", "right → right", "wrong → wrong")
EXAMPLES_PER_OUTCOME = {"wrong → right": 3, "right → wrong": 3, "right → right": 2, "wrong → wrong": 2}
ONE_PER_OUTCOME = dict.fromkeys(OUTCOMES, 1)
MAX_LAYERS, MAX_EXPERTS = 3, 8  # in the table of one example
USED_FALLBACK = "No reference has any kernel weight: the router's own weights were used."


class SelectedExample(NamedTuple):
    """A sample selected for the report: its number there, its row in the results, and its outcome."""

    number: int
    row: int
    outcome: str


@dataclass(frozen=True)
class RoutingTable:
    """Routing weights [L, E] before and after, with so few layers and experts that a table can show them."""

    layers: tuple[str, ...]
    experts: tuple[str, ...]
    before: Float[np.ndarray, "L E"]
    after: Float[np.ndarray, "L E"]
    caption: str

    def rows(self) -> Iterator[tuple[str, list[tuple[float, bool]]]]:
        """For each expert its name, and for each layer the weight before and after, with whether it is the largest."""
        columns = [weights for pair in zip(self.before, self.after, strict=True) for weights in pair]
        for expert, name in enumerate(self.experts):
            yield name, [(float(column[expert]), expert == int(column.argmax())) for column in columns]


@dataclass(frozen=True)
class Example:
    """One question before and after re-routing, ready to be shown.

    `image` is a PNG, `place` is where the image is in the sheets of a report; if both are `None`, `no_image` has the
    reason. `expected` is empty, and `right_before` and `right_after` are `None`, if the right answer is not known.
    """

    title: str
    family: str
    question: str
    expected: tuple[str, ...]
    answer_before: str
    answer_after: str
    right_before: bool | None
    right_after: bool | None
    strategy: str
    neighbors: tuple[Neighbor, ...]
    experts: tuple[str, ...]
    layers: tuple[str, ...]
    weights_before: Float[np.ndarray, "L E"]
    weights_after: Float[np.ndarray, "L E"]
    image: bytes | None = None
    place: Sequence[int] | None = None
    no_image: str = ""
    note: str = ""

    @property
    def outcome(self) -> str | None:
        """One of `OUTCOMES`; `None` if the right answer is not known."""
        if self.right_before is None or self.right_after is None:
            return None
        return outcome_name(self.right_before, self.right_after)

    @property
    def routing_table(self) -> RoutingTable:
        """The routing weights of at most `MAX_LAYERS` layers, else their mean, and of the `MAX_EXPERTS` largest."""
        before, after = np.asarray(self.weights_before), np.asarray(self.weights_after)  # [L, E]
        layers, notes = self.layers, []
        if len(layers) > MAX_LAYERS:
            notes.append(f"mean of {len(layers)} layers")
            layers = ("all layers",)
            before, after = before.mean(axis=0, keepdims=True), after.mean(axis=0, keepdims=True)
        experts = list(range(len(self.experts)))
        if len(experts) > MAX_EXPERTS:
            largest = np.maximum(np.abs(before), np.abs(after)).max(axis=0)
            experts = sorted(np.argsort(-largest, kind="stable")[:MAX_EXPERTS].tolist())
            notes.append(f"the {MAX_EXPERTS} largest of {len(self.experts)} experts")
        caption = ", ".join(["Routing weights, %", *notes])
        names = tuple(self.experts[expert] for expert in experts)
        return RoutingTable(tuple(layers), names, before[:, experts], after[:, experts], caption)


def outcome_name(right_before: bool, right_after: bool) -> str:
    """`wrong → right` and so on."""
    return f"{'right' if right_before else 'wrong'} → {'right' if right_after else 'wrong'}"


def outcomes_of(results: ModelResults, explained: StrategyRows) -> list[str]:
    """The outcome of each sample under a strategy, compared with `base`."""
    return list(map(outcome_name, results.base.right.tolist(), explained.right.tolist()))


def select_examples(results: ModelResults, numbers: Mapping[str, int] = EXAMPLES_PER_OUTCOME) -> list[SelectedExample]:
    """Samples by a fixed rule: a number of each outcome, by default ten in all.

    Within an outcome, in the order of the test set, the first of each family before the second of any. If an outcome
    has too few samples, the others contribute more.
    """
    if results.explained is None:
        return []
    outcomes = outcomes_of(results, results.explained)
    rows = {outcome: [i for i, other in enumerate(outcomes) if other == outcome] for outcome in OUTCOMES}
    candidates = {outcome: _one_family_after_another(rows[outcome], results) for outcome in OUTCOMES}
    selected = {outcome: candidates[outcome][:wanted] for outcome, wanted in numbers.items()}
    missing = sum(numbers.values()) - sum(map(len, selected.values()))
    for outcome, wanted in numbers.items():
        more = candidates[outcome][wanted : wanted + missing]
        selected[outcome] += more
        missing -= len(more)
    ordered = [(row, outcome) for outcome in OUTCOMES for row in selected[outcome]]
    return [SelectedExample(number, row, outcome) for number, (row, outcome) in enumerate(ordered, start=1)]


def _one_family_after_another(rows: Sequence[int], results: ModelResults) -> list[int]:
    """Rows in rounds: the first of every family, then the second of every family, and so on."""
    counts: dict[str, int] = {}
    rounds = []
    for row in rows:
        family = results.categories[row]
        counts[family] = counts.get(family, 0) + 1
        rounds.append((counts[family], row))
    return [row for _, row in sorted(rounds)]


def make_example(results: ModelResults, selected: SelectedExample, sheets: ImageSheets) -> Example:
    """Everything that the report shows of a selected sample."""
    explained = results.explained
    assert explained is not None
    row = selected.row
    records = [{"id": name, **results.references.get(name, {})} for name in explained.neighbors[row]]
    return Example(
        title=f"Example {selected.number}",
        family=results.categories[row],
        question=results.questions[row],
        expected=tuple(results.answers[row]),
        answer_before=results.base.predictions[row],
        answer_after=explained.predictions[row],
        right_before=bool(results.base.right[row]),
        right_after=bool(explained.right[row]),
        strategy=explained.name,
        neighbors=neighbors_of(records, explained.kernel_weights[row]),
        experts=results.experts,
        layers=results.layers,
        weights_before=results.router_weights[row],
        weights_after=explained.weights[row],
        place=sheets.place(results.ids[row]),
        no_image=sheets.reason,
        note=USED_FALLBACK if explained.used_fallback[row] else "",
    )
