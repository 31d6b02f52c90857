"""Maps of experts: usage, weight and co-activation by group of samples or tokens, tested against chance.

Usage is the share of a unit's tokens that choose an expert; weight is the mean combine weight over the unit's tokens,
zero where the expert is not chosen. A unit is a sample, or the tokens of one modality in a sample, so that long samples
count once. The difference of a group is its mean minus the mean over all units. Its p-value is the share of
permutations of the group labels with a difference at least as large; for modalities, labels are permuted within each
sample. Experts that serve all groups alike therefore show no difference, however much they are used.

Axis letters: U units, G groups, N layers, E experts, F = N x E entries, k chosen experts, T tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control

from r2t2_jax.errors import R2T2Error
from r2t2_jax.routes.recording import NO_EXPERT, RecordingFacts, SampleRoutes

FACTORS = ("category", "modality", "source")
BLOCK = 64  # permutations at a time
PAIRS = 20  # co-activated pairs of a layer and group
QUANTITIES = ("usage", "weight")
ALL = "all tokens"  # the group of a comparison without a factor


@dataclass(frozen=True)
class FactorMap:
    """The map of one factor.

    Args:
        factor: one of `FACTORS`.
        groups: names of its groups.
        entries: a record for each group, layer and expert.
        pairs: a record for each of the most frequent pairs of experts that serve a token together.
        tested: number of tests of each quantity.
        significant: number of these with q at most the rate of false discoveries.
    """

    factor: str
    groups: tuple[str, ...]
    entries: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    tested: dict[str, int]
    significant: dict[str, int]


@dataclass
class Units:
    """The units of one factor: their samples, groups and tokens, and the usage and weight of each entry.

    `weight` is empty for recordings without weights.
    """

    samples: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    usage: list[Float[np.ndarray, "N E"]] = field(default_factory=list)
    weight: list[Float[np.ndarray, "N E"]] = field(default_factory=list)

    def add(
        self, number: int, sample: SampleRoutes, factor: str | None, facts: RecordingFacts
    ) -> Iterator[tuple[str, Int[np.ndarray, "T N k"]]]:
        """Add the units of a sample, and yield the group and the expert ids of each.

        Args:
            number: of the sample, that its units share.
            sample: its tokens without a route are left out.
            factor: one of `FACTORS`; `None` for a single group, `ALL`.
            facts: of the recording, or of another with more experts.
        """
        routed = (sample.experts != NO_EXPERT).all(axis=(1, 2))
        kinds = np.asarray(sample.kinds)
        own = {None: ALL, "category": sample.category, "source": sample.source}
        labels = kinds if factor == "modality" else np.full(len(kinds), own[factor])
        for group in dict.fromkeys(labels[routed].tolist()):
            rows = routed & (labels == group)
            ids = sample.experts[rows]
            self.samples.append(number)
            self.groups.append(group)
            self.tokens.append(len(ids))
            self.usage.append(_entry_sums(ids, None, facts) / len(ids))
            if sample.weights is not None:
                self.weight.append(_entry_sums(ids, sample.weights[rows], facts) / len(ids))
            yield group, ids


def map_experts(
    samples: Iterable[SampleRoutes],
    facts: RecordingFacts,
    factors: Sequence[str],
    permutations: int = 1000,
    rate: float = 0.05,
    seed: int = 0,
) -> list[FactorMap]:
    """The maps of a recording by each factor.

    Args:
        samples: of the recording.
        facts: of the recording.
        factors: of `FACTORS`; empty for those with at least two groups.
        permutations: number of permutations of the labels.
        rate: of false discoveries among the entries that are reported as significant.
        seed: of the permutations.

    Raises:
        R2T2Error: a factor that was named has a single group, or none has two.
    """
    units: Mapping[str, Units] = {factor: Units() for factor in factors or FACTORS}
    pairs: dict[tuple[str, str], _PairCounts] = defaultdict(lambda: _PairCounts(facts))
    for number, sample in enumerate(samples):
        _collect(number, sample, facts, units, pairs)
    groups = {factor: tuple(dict.fromkeys(sorted(each.groups))) for factor, each in units.items()}
    varying = [factor for factor in units if len(groups[factor]) > 1]
    if not factors and not varying:
        raise R2T2Error(f"all recorded tokens have one {', one '.join(FACTORS)}; a map compares at least two groups")
    for factor in factors:
        if factor not in varying:
            name = groups[factor][0] if groups[factor] else ""
            raise R2T2Error(
                f"--by {factor}: all recorded tokens have the {factor} {name!r}; a map compares at least two groups"
            )
    return [
        _factor_map(factor, groups[factor], units[factor], pairs, facts, permutations, rate, seed) for factor in varying
    ]


def _collect(
    number: int,
    sample: SampleRoutes,
    facts: RecordingFacts,
    units: Mapping[str, Units],
    pairs: Mapping[tuple[str, str], _PairCounts],
) -> None:
    """Add a sample to the units and pair counts of every factor."""
    for factor, each in units.items():
        for group, ids in each.add(number, sample, factor, facts):
            pairs[factor, group].add(ids)


def _entry_sums(
    ids: Int[np.ndarray, "T N k"], weights: Float[np.ndarray, "T N k"] | None, facts: RecordingFacts
) -> Float[np.ndarray, "N E"]:
    """The number of tokens that choose each expert in each layer, or the sum of its weights."""
    layers, experts = len(facts.layers), len(facts.experts)
    entry = ids.astype(np.int64) + experts * np.arange(layers)[None, :, None]
    values = None if weights is None else weights.astype(np.float64).ravel()
    return np.bincount(entry.ravel(), values, layers * experts).reshape(layers, experts)


class _PairCounts:
    """The number of tokens of a group that choose each pair of experts of a layer."""

    def __init__(self, facts: RecordingFacts) -> None:
        self._experts, self._layers = len(facts.experts), len(facts.layers)
        self._first, self._second = np.triu_indices(facts.top_k, 1)
        self._tokens = 0
        self._counts = np.zeros((self._layers, self._experts, self._experts), np.int64)
        self._single = np.zeros((self._layers, self._experts), np.int64)

    def add(self, ids: Int[np.ndarray, "T N k"]) -> None:
        """Count the pairs of some tokens."""
        size = self._experts
        ordered = np.sort(ids.astype(np.int64), axis=-1)
        self._tokens += len(ids)
        for layer in range(self._layers):
            pair = ordered[:, layer, self._first] * size + ordered[:, layer, self._second]
            self._counts[layer] += np.bincount(pair.ravel(), minlength=size * size).reshape(size, size)
            self._single[layer] += np.bincount(ordered[:, layer].ravel(), minlength=size)

    def records(self, facts: RecordingFacts) -> list[dict[str, Any]]:
        """The most frequent pairs of each layer, and their lift over independent choices."""
        records = []
        for layer in range(self._layers):
            counts, single = self._counts[layer], self._single[layer] / self._tokens
            largest = np.argsort(-counts, axis=None, kind="stable")[:PAIRS]
            for first, second in zip(*np.unravel_index(largest, counts.shape), strict=True):
                if not counts[first, second]:
                    break
                share = counts[first, second] / self._tokens
                records.append({
                    "layer": facts.layers[layer],
                    "expert": facts.experts[first],
                    "other": facts.experts[second],
                    "share": float(share),
                    "lift": float(share / (single[first] * single[second])),
                })  # fmt: skip
        return records


def _factor_map(
    factor: str,
    groups: tuple[str, ...],
    units: Units,
    pairs: Mapping[tuple[str, str], _PairCounts],
    facts: RecordingFacts,
    permutations: int,
    rate: float,
    seed: int,
) -> FactorMap:
    labels = np.asarray([groups.index(group) for group in units.groups])
    strata = np.asarray(units.samples) if factor == "modality" else None
    columns: dict[str, np.ndarray] = {}
    tested, significant = {}, {}
    for quantity in QUANTITIES[: 1 + facts.weights]:
        values = np.stack(getattr(units, quantity)).reshape(len(labels), -1)  # [U, F]
        columns[quantity] = np.stack([values[labels == g].mean(axis=0) for g in range(len(groups))])
        difference, p = permutation_test(values, labels, strata, permutations, np.random.default_rng(seed))
        q = np.ones_like(p)
        varied = np.ptp(values, axis=0) > 1e-9  # experts that all units use alike are no test
        if varied.any():
            q[:, varied] = false_discovery_control(p[:, varied].ravel()).reshape(len(groups), -1)
        columns |= {f"{quantity}_difference": difference, f"{quantity}_p": p, f"{quantity}_q": q}
        tested[quantity], significant[quantity] = len(groups) * int(varied.sum()), int((q <= rate).sum())
    shape = (len(groups), len(facts.layers), len(facts.experts))
    named = {name: column.reshape(shape) for name, column in columns.items()}
    counts = np.bincount(labels)
    tokens = np.bincount(labels, units.tokens).astype(int)
    entries = [
        {
            "factor": factor, "group": group, "layer": layer, "expert": expert,
            "units": int(counts[g]), "tokens": int(tokens[g]),
        }
        | {name: float(column[g, i, e]) for name, column in named.items()}
        for g, group in enumerate(groups)
        for i, layer in enumerate(facts.layers)
        for e, expert in enumerate(facts.experts)
    ]  # fmt: skip
    together = [
        {"factor": factor, "group": group} | record
        for group in groups
        for record in pairs[factor, group].records(facts)
    ]
    return FactorMap(factor, groups, entries, together, tested, significant)


def permutation_test(
    values: Float[np.ndarray, "U F"],
    labels: Int[np.ndarray, "U"],
    strata: Int[np.ndarray, "U"] | None,
    permutations: int,
    random: np.random.Generator,
) -> tuple[Float[np.ndarray, "G F"], Float[np.ndarray, "G F"]]:
    """The difference of each group's mean from the mean of all units, and its two-sided p-value.

    Args:
        values: of each unit.
        labels: group of each unit, from 0 on.
        strata: units of one stratum are compared with each other only, and labels are permuted within it; `None` for a
            single stratum.
        permutations: number P of permutations; the smallest p-value is 1 / (P + 1).
        random: draws the permutations.
    """
    strata = np.zeros(len(labels), int) if strata is None else np.unique(strata, return_inverse=True)[1]
    sizes = np.bincount(strata)
    means = np.zeros((len(sizes), values.shape[1]))
    np.add.at(means, strata, values)
    centered = values - (means / sizes[:, None])[strata]
    groups = int(labels.max()) + 1
    counts = np.bincount(labels, minlength=groups)[:, None]

    def differences(permuted: Int[np.ndarray, "n U"]) -> Float[np.ndarray, "n G F"]:
        members: Bool[np.ndarray, "n G U"] = permuted[:, None] == np.arange(groups)[None, :, None]
        return members.astype(float) @ centered / counts

    (difference,) = differences(labels[None])
    threshold = np.abs(difference) - 1e-12
    home = np.argsort(strata, kind="stable")
    exceeding = np.zeros(difference.shape, int)
    for start in range(0, permutations, BLOCK):
        count = min(BLOCK, permutations - start)
        permuted = np.empty((count, len(labels)), int)
        for row in permuted:
            row[home] = labels[np.lexsort((random.random(len(labels)), strata))]
        exceeding += (np.abs(differences(permuted)) >= threshold).sum(axis=0)
    return difference, (1 + exceeding) / (1 + permutations)
