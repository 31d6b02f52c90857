"""Co-activation: pairs of experts that serve a token together, by group, and which differences are not chance.

The pairs that are listed are the most frequent ones of each layer and group. Their differences are tested like those of
usage (`expert_map`): a unit's share of tokens that choose both, averaged over the units of a group.

Axis letters: U units, G groups, N layers, E experts, k chosen experts, T tokens, C listed pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from r2t2_jax.routes.recording import RecordingFacts

PAIRS = 20  # of a layer and group
Pair = tuple[int, int, int]  # layer, and the numbers of two experts in ascending order


class PairCounts:
    """The number of tokens of a group that choose each pair of experts of a layer."""

    def __init__(self, facts: RecordingFacts) -> None:
        self._layers, self._experts = len(facts.layers), len(facts.experts)
        self._tokens = 0
        self._counts = np.zeros((self._layers, self._experts, self._experts), np.int64)
        self._single = np.zeros((self._layers, self._experts), np.int64)

    def add(self, ids: Int[np.ndarray, "T N k"]) -> None:
        """Count the pairs of some tokens."""
        self._tokens += len(ids)
        for layer in range(self._layers):
            self._counts[layer] += _layer_pairs(ids[:, layer], self._experts)
            self._single[layer] += np.bincount(ids[:, layer].ravel(), minlength=self._experts)

    def largest(self) -> list[tuple[Pair, float, float]]:
        """The most frequent pairs of each layer, their share of the tokens, and its lift over independent choices."""
        pairs = []
        for layer in range(self._layers):
            counts, single = self._counts[layer], self._single[layer] / self._tokens
            order = np.argsort(-counts, axis=None, kind="stable")[:PAIRS]
            for first, second in zip(*np.unravel_index(order, counts.shape), strict=True):
                if not counts[first, second]:
                    break
                share = counts[first, second] / self._tokens
                lift = share / (single[first] * single[second])
                pairs.append(((layer, int(first), int(second)), float(share), float(lift)))
        return pairs


def _layer_pairs(ids: Int[np.ndarray, "T k"], experts: int) -> Int[np.ndarray, "E E"]:
    """The number of tokens that choose each pair; the first of its experts has the lower number."""
    first, second = np.triu_indices(ids.shape[1], 1)
    ordered = np.sort(ids.astype(np.int64), axis=-1)
    pair = ordered[:, first] * experts + ordered[:, second]
    return np.bincount(pair.ravel(), minlength=experts * experts).reshape(experts, experts)


def pair_shares(ids: Int[np.ndarray, "T N k"], pairs: Sequence[Pair], experts: int) -> Float[np.ndarray, "C"]:
    """The share of a unit's tokens that choose both experts of each pair."""
    shares = np.zeros(len(pairs))
    layers = np.array([layer for layer, _, _ in pairs])
    places = np.array([first * experts + second for _, first, second in pairs])
    for layer in np.unique(layers):
        own = layers == layer
        shares[own] = _layer_pairs(ids[:, layer], experts).ravel()[places[own]] / len(ids)
    return shares


def pair_records(
    listed: Sequence[tuple[Pair, float, float]],
    places: Mapping[Pair, int],
    tests: Mapping[str, Float[np.ndarray, "C"]],
    facts: RecordingFacts,
) -> list[dict[str, Any]]:
    """A record for each listed pair of a group.

    Args:
        listed: from `PairCounts.largest`.
        places: of the pairs among the tested ones.
        tests: difference, p and q of the tested pairs in this group, by column.
        facts: of the recording.
    """
    return [
        {
            "layer": facts.layers[pair[0]], "expert": facts.experts[pair[1]], "other": facts.experts[pair[2]],
            "share": share, "lift": lift,
        }
        | {name: float(values[places[pair]]) for name, values in tests.items()}
        for pair, share, lift in listed
    ]  # fmt: skip
