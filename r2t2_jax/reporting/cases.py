"""All cases of a report: the data that its script searches, filters and sorts, and sheets of their images.

The data of a model are one JSON document, compressed with zlib and written in base64. The page itself holds them as
far as it stays small; the others are files of the folder next to it.

Axis letters: B test samples, K neighbors, L routed layers, E experts.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float, Int

from r2t2_jax.methods import BASE
from r2t2_jax.reporting.examples import MAX_EXPERTS, MAX_LAYERS, OUTCOMES, outcomes_of
from r2t2_jax.reporting.images import ImageSheets
from r2t2_jax.reporting.results import ModelResults, StrategyRows

LEVEL = 5  # of zlib; the default of 6 takes twice the time for 3 % fewer bytes
MILLE = 1000  # weights and shares are written as whole thousandths
LISTED = 100  # cases in the page's own table, which readers without scripts see


def pack(content: Any) -> str:
    """JSON values as text for a page: compact JSON, zlib, base64."""
    return base64.b64encode(zlib.compress(msgspec.json.encode(content), LEVEL)).decode("ascii")


def change(results: ModelResults, strategy: StrategyRows) -> Float[np.ndarray, "B"]:
    """How far a strategy moves each sample's routing weights: total variation, mean over layers."""
    return 0.5 * np.abs(strategy.weights - results.router_weights).sum(axis=2).mean(axis=1)


def order_by_change(results: ModelResults) -> list[int]:
    """The samples by outcome in the order of `OUTCOMES`, within an outcome the most re-routed first."""
    explained = results.explained
    assert explained is not None
    moved, rank = change(results, explained), [OUTCOMES.index(name) for name in outcomes_of(results, explained)]
    return sorted(range(len(rank)), key=lambda i: (rank[i], -moved[i]))


def case_rows(results: ModelResults) -> list[dict[str, Any]]:
    """One row per case for the CSV file: question, expected answer, and the answer of every strategy."""
    names = [BASE, *results.ranking]
    return [
        {
            "id": results.ids[i],
            "family": results.categories[i],
            "question": results.questions[i],
            "expected": " or ".join(results.answers[i]),
            **{name: results.strategies[name].predictions[i] for name in names},
            **{f"{name} right": bool(results.strategies[name].right[i]) for name in names},
        }
        for i in range(len(results.ids))
    ]


def listed_cases(results: ModelResults) -> list[dict[str, Any]]:
    """The first `LISTED` cases of the explained strategy by change, as the page's own table shows them."""
    explained = results.explained
    assert explained is not None
    outcomes = outcomes_of(results, explained)
    return [
        {
            "family": results.categories[i],
            "question": results.questions[i],
            "expected": " or ".join(results.answers[i]),
            "before": results.base.predictions[i],
            "after": explained.predictions[i],
            "outcome": outcomes[i],
        }
        for i in order_by_change(results)[:LISTED]
    ]


def case_data(results: ModelResults, sheets: ImageSheets) -> dict[str, Any]:
    """All cases of a model as JSON values, for the script of the page."""
    families = sorted(set(results.categories))
    strategies = [results.strategies[name] for name in (BASE, *results.ranking)]
    neighbors, references = _neighbor_data(strategies)
    texts: dict[str, int] = {}
    answers = {
        each.name: [texts.setdefault(prediction, len(texts)) for prediction in each.predictions] for each in strategies
    }
    records = [results.references.get(name, {}) for name in references]
    return {
        "families": families,
        "experts": results.experts,
        "layers": _layer_names(results),
        "all_layers": len(results.layers),
        "cases": [
            [
                results.ids[i],
                families.index(results.categories[i]),
                results.questions[i],
                " or ".join(results.answers[i]),
                sheets.place(results.ids[i]),
            ]
            for i in range(len(results.ids))
        ],
        "no_image": sheets.reason,
        "texts": list(texts),
        "answers": answers,
        "right": {each.name: "".join("1" if right else "0" for right in each.right) for each in strategies},
        "moved": {each.name: _thousandths(change(results, each)) for each in strategies},
        "fallback": {each.name: np.flatnonzero(each.used_fallback).tolist() for each in strategies},
        "references": [
            [record.get("question") or name, record.get("answer") or "–"]
            for name, record in zip(references, records, strict=True)
        ],
        "neighbors": neighbors,
        "weights": {each.name: _routing_data(results, each) for each in strategies if each.name != BASE},
    }


def _neighbor_data(strategies: Sequence[StrategyRows]) -> tuple[dict[str, Any], list[str]]:
    """Each strategy's neighbors as pairs of reference and share, or a strategy with the same ones; all references."""
    positions: dict[str, int] = {}
    known: dict[Any, str] = {}
    data: dict[str, Any] = {}
    for each in strategies:
        if not any(each.neighbors):
            continue
        sums = each.kernel_weights.sum(axis=1, keepdims=True)
        shares = np.divide(
            each.kernel_weights, sums, out=np.zeros_like(each.kernel_weights, dtype=float), where=sums > 0
        )
        thousandths = _thousandths(shares)
        key = tuple(map(tuple, each.neighbors)), tuple(map(tuple, thousandths))
        same = known.setdefault(key, each.name)
        data[each.name] = (
            same
            if same != each.name
            else [
                [[positions.setdefault(name, len(positions)), share] for name, share in zip(names, row, strict=False)]
                for names, row in zip(each.neighbors, thousandths, strict=True)
            ]
        )
    return data, list(positions)


def _layer_names(results: ModelResults) -> Sequence[str]:
    return ("all layers",) if len(results.layers) > MAX_LAYERS else results.layers


def _routing_data(results: ModelResults, strategy: StrategyRows) -> list[list[Any]]:
    """For each sample the experts that a card shows, and their weights before and after by layer, in thousandths."""
    before, after = results.router_weights, strategy.weights  # [B, L, E]
    if len(results.layers) > MAX_LAYERS:
        before, after = before.mean(axis=1, keepdims=True), after.mean(axis=1, keepdims=True)
    shown = _shown_experts(before, after)  # [B, X]
    columns = [np.take_along_axis(each, shown[:, None], axis=2) for each in (before, after)]  # [B, L, X]
    pairs = np.stack(columns, axis=2).reshape(len(shown), -1, shown.shape[1])  # [B, 2 L, X]: before and after by layer
    return [list(row) for row in zip(shown.tolist(), _thousandths(pairs), strict=True)]


def _shown_experts(before: Float[np.ndarray, "B L E"], after: Float[np.ndarray, "B L E"]) -> Int[np.ndarray, "B X"]:
    largest = np.maximum(np.abs(before), np.abs(after)).max(axis=1)  # [B, E]
    return np.sort(np.argsort(-largest, axis=1, kind="stable")[:, :MAX_EXPERTS], axis=1)


def _thousandths(values: Float[np.ndarray, "..."]) -> list[Any]:
    return np.rint(MILLE * values).astype(int).tolist()


def inline_and_files(blocks: Mapping[str, str], room: int) -> tuple[list[str], list[str]]:
    """The blocks of data that the page has room for, the smallest first, and those that are files next to it."""
    inside: list[str] = []
    for name in sorted(blocks, key=lambda name: len(blocks[name])):
        if len(blocks[name]) <= room:
            inside.append(name)
            room -= len(blocks[name])
    return [name for name in blocks if name in inside], [name for name in blocks if name not in inside]
