"""Which single cases a report shows, and what it shows of each.

Axis letters: B test samples, K neighbours, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from r2t2_jax.reporting.results import ModelResults, StrategyRows

KINDS = ("wrong → right", "right → wrong", "right → right", "wrong → wrong")
MOST_LAYERS, MOST_EXPERTS = 3, 8  # in the table of a case
FELL_BACK = "No neighbour weighed anything: the router's own weights were kept."
WANTED = {"wrong → right": 3, "right → wrong": 3, "right → right": 2, "wrong → wrong": 2}


class Chosen(NamedTuple):
    """A case in the report: its number there, its row in the results, and what became of its answer."""

    number: int
    row: int
    kind: str


@dataclass(frozen=True)
class Neighbor:
    """A reference beside a case. `share` is its part of the kernel's weight; the texts are `None` where not stored."""

    id: str
    question: str | None
    answer: str | None
    share: float


@dataclass(frozen=True)
class Case:
    """One question before and after re-routing, ready to be shown.

    `image` is a PNG, or `None` with the reason in `no_image`. `expected` is empty, and `right_before` and `right_after`
    are `None`, where nobody knows the answer.
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
    losses: tuple[float, ...] = ()
    image: bytes | None = None
    no_image: str = ""
    note: str = ""


class ShownRouting(NamedTuple):
    """As much of a case's routing weights as a table can show."""

    layers: tuple[str, ...]
    experts: tuple[str, ...]
    before: Float[np.ndarray, "L E"]
    after: Float[np.ndarray, "L E"]
    caption: str


def kinds_of(results: ModelResults, explained: StrategyRows) -> list[str]:
    """What became of each sample's answer."""
    word = {True: "right", False: "wrong"}
    pairs = zip(results.base.right.tolist(), explained.right.tolist(), strict=True)
    return [f"{word[before]} → {word[after]}" for before, after in pairs]


def choose(results: ModelResults) -> list[Chosen]:
    """Ten cases by a fixed rule: three each that turned right and wrong, two each that stayed right and wrong.

    Within a kind, in the order of the test set, the first of each family before the second of any. What a kind lacks
    the others make up for, as far as there are samples.
    """
    if results.explained is None:
        return []
    kinds = kinds_of(results, results.explained)
    waiting = {kind: _by_family([i for i, found in enumerate(kinds) if found == kind], results) for kind in KINDS}
    taken = {kind: waiting[kind][: WANTED[kind]] for kind in KINDS}
    missing = sum(WANTED.values()) - sum(map(len, taken.values()))
    for kind in KINDS:
        more = waiting[kind][WANTED[kind] : WANTED[kind] + missing]
        taken[kind] += more
        missing -= len(more)
    ordered = [(row, kind) for kind in KINDS for row in taken[kind]]
    return [Chosen(number, row, kind) for number, (row, kind) in enumerate(ordered, start=1)]


def _by_family(rows: list[int], results: ModelResults) -> list[int]:
    """Rows in rounds: the first of every family, then the second of every family, and so on."""
    seen: dict[str, int] = {}
    rounds = []
    for row in rows:
        family = results.categories[row]
        seen[family] = seen.get(family, 0) + 1
        rounds.append((seen[family], row))
    return [row for _, row in sorted(rounds)]


def case_of(results: ModelResults, chosen: Chosen, image: bytes | None, no_image: str) -> Case:
    """Everything a card shows of one case."""
    explained = results.explained
    assert explained is not None
    row = chosen.row
    return Case(
        title=f"Case {chosen.number}",
        family=results.categories[row],
        question=results.questions[row],
        expected=tuple(results.answers[row]),
        answer_before=results.base.predictions[row],
        answer_after=explained.predictions[row],
        right_before=bool(results.base.right[row]),
        right_after=bool(explained.right[row]),
        strategy=explained.name,
        neighbors=_neighbors(results, explained, row),
        experts=results.experts,
        layers=results.layers,
        weights_before=results.router_weights[row],
        weights_after=explained.weights[row],
        losses=tuple(explained.losses[row].tolist()),
        image=image,
        no_image=no_image,
        note=FELL_BACK if explained.used_fallback[row] else "",
    )


def _neighbors(results: ModelResults, explained: StrategyRows, row: int) -> tuple[Neighbor, ...]:
    records = [{"id": name} | dict(results.references.get(name, {})) for name in explained.neighbors[row]]
    return neighbors_of(records, explained.kernel_weights[row])


def neighbors_of(records: Sequence[Mapping[str, Any]], weights: Float[np.ndarray, "K"]) -> tuple[Neighbor, ...]:
    """The neighbours of a case from their records, with each one's share of the kernel's weight."""
    total = float(weights.sum())
    shares = (weights / total if total > 0 else np.zeros_like(weights)).tolist()
    return tuple(
        Neighbor(str(record.get("id", "")), record.get("question"), record.get("answer"), share)
        for record, share in zip(records, shares, strict=True)
    )


def shown_routing(case: Case) -> ShownRouting:
    """The weights of at most three layers and eight experts: more are averaged, or left to the run's rows."""
    before, after = np.asarray(case.weights_before), np.asarray(case.weights_after)  # [L, E]
    layers, notes = case.layers, []
    if len(layers) > MOST_LAYERS:
        notes.append(f"mean of {len(layers)} layers")
        before, after, layers = before.mean(axis=0, keepdims=True), after.mean(axis=0, keepdims=True), ("all layers",)
    shown = list(range(len(case.experts)))
    if len(case.experts) > MOST_EXPERTS:
        largest = np.maximum(np.abs(before), np.abs(after)).max(axis=0)
        shown = sorted(np.argsort(-largest, kind="stable")[:MOST_EXPERTS].tolist())
        notes.append(f"the {MOST_EXPERTS} largest of {len(case.experts)} experts")
    caption = ", ".join(["Routing weights, %", *notes])
    return ShownRouting(
        tuple(layers), tuple(case.experts[e] for e in shown), before[:, shown], after[:, shown], caption
    )
