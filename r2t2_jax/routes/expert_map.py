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
from r2t2_jax.routes.expert_pairs import Pair, PairCounts, pair_records, pair_shares
from r2t2_jax.routes.recording import NO_EXPERT, RecordingFacts, SampleRoutes

FACTORS = ("category", "modality", "source")
BLOCK = 64  # permutations at a time
SAME = 1e-9  # largest difference between units that use an expert alike
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

    `weight` is empty for recordings without weights; `pairs` holds the shares of the listed pairs of experts.
    """

    samples: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    usage: list[Float[np.ndarray, "N E"]] = field(default_factory=list)
    weight: list[Float[np.ndarray, "N E"]] = field(default_factory=list)
    pairs: list[Float[np.ndarray, "C"]] = field(default_factory=list)

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
        for group, rows in group_rows(sample, factor):
            ids = sample.experts[rows]
            self.samples.append(number)
            self.groups.append(group)
            self.tokens.append(len(ids))
            self.usage.append(_entry_sums(ids, None, facts) / len(ids))
            if sample.weights is not None:
                self.weight.append(_entry_sums(ids, sample.weights[rows], facts) / len(ids))
            yield group, ids


def group_rows(sample: SampleRoutes, factor: str | None) -> Iterator[tuple[str, Bool[np.ndarray, "T"]]]:
    """The groups of a sample's tokens that have a route, and a mask of the tokens of each."""
    routed = (sample.experts != NO_EXPERT).all(axis=(1, 2))
    kinds = np.asarray(sample.kinds)
    own = {None: ALL, "category": sample.category, "source": sample.source}
    labels = kinds if factor == "modality" else np.full(len(kinds), own[factor])
    for group in dict.fromkeys(labels[routed].tolist()):
        yield group, routed & (labels == group)


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
        samples: of the recording; iterated twice, so a list or a `Recording` needs no copy.
        facts: of the recording.
        factors: of `FACTORS`; empty for those with at least two groups.
        permutations: number of permutations of the labels.
        rate: of false discoveries among the entries that are reported as significant.
        seed: of the permutations.

    Raises:
        R2T2Error: a factor that was named has a single group, or none has two.
    """
    samples = list(samples) if isinstance(samples, Iterator) else samples
    units: Mapping[str, Units] = {factor: Units() for factor in factors or FACTORS}
    pairs: dict[tuple[str, str], PairCounts] = defaultdict(lambda: PairCounts(facts))
    for number, sample in enumerate(samples):
        for factor, each in units.items():
            for group, ids in each.add(number, sample, factor, facts):
                pairs[factor, group].add(ids)
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
    listed = {factor: [pairs[factor, group].largest() for group in groups[factor]] for factor in varying}
    places: dict[str, dict[Pair, int]] = {}
    for factor in varying:
        distinct = sorted({pair for group in listed[factor] for pair, _, _ in group})
        places[factor] = {pair: place for place, pair in enumerate(distinct)}
    for sample in samples:
        for factor in varying:
            for _, rows in group_rows(sample, factor):
                shares = pair_shares(sample.experts[rows], list(places[factor]), len(facts.experts))
                units[factor].pairs.append(shares)
    return [
        _factor_map(
            factor, groups[factor], units[factor], listed[factor], places[factor], facts, permutations, rate, seed
        )
        for factor in varying
    ]


def _entry_sums(
    ids: Int[np.ndarray, "T N k"], weights: Float[np.ndarray, "T N k"] | None, facts: RecordingFacts
) -> Float[np.ndarray, "N E"]:
    """The number of tokens that choose each expert in each layer, or the sum of its weights."""
    layers, experts = len(facts.layers), len(facts.experts)
    entry = ids.astype(np.int64) + experts * np.arange(layers)[None, :, None]
    values = None if weights is None else weights.astype(np.float64).ravel()
    return np.bincount(entry.ravel(), values, layers * experts).reshape(layers, experts)


def _pair_tests(
    groups: tuple[str, ...],
    labels: Int[np.ndarray, "U"],
    strata: Int[np.ndarray, "U"] | None,
    shares: Float[np.ndarray, "U C"],
    permutations: int,
    seed: int,
) -> dict[str, Float[np.ndarray, "G C"]]:
    """Difference, p and q of the shares of pairs, by column."""
    difference, p = permutation_test(shares, labels, strata, permutations, np.random.default_rng(seed))
    return {"share_difference": difference, "share_p": p, "share_q": _q_values(p, shares, len(groups))}


def _q_values(p: Float[np.ndarray, "G F"], values: Float[np.ndarray, "U F"], groups: int) -> Float[np.ndarray, "G F"]:
    """P-values after Benjamini-Hochberg; 1 for what all units have alike, which is no test."""
    q, varied = np.ones_like(p), np.ptp(values, axis=0) > SAME
    if varied.any():
        q[:, varied] = false_discovery_control(p[:, varied].ravel()).reshape(groups, -1)
    return q


def _factor_map(
    factor: str,
    groups: tuple[str, ...],
    units: Units,
    listed: Sequence[list[tuple[Pair, float, float]]],
    places: Mapping[Pair, int],
    facts: RecordingFacts,
    permutations: int,
    rate: float,
    seed: int,
) -> FactorMap:
    """The map of one factor; `listed` are the pairs of each group, `places` those among the shares of `units`."""
    labels = np.asarray([groups.index(group) for group in units.groups])
    strata = np.asarray(units.samples) if factor == "modality" else None
    columns: dict[str, np.ndarray] = {}
    tested, significant = {}, {}
    for quantity in QUANTITIES[: 1 + facts.weights]:
        values = np.stack(getattr(units, quantity)).reshape(len(labels), -1)  # [U, F]
        columns[quantity] = np.stack([values[labels == g].mean(axis=0) for g in range(len(groups))])
        difference, p = permutation_test(values, labels, strata, permutations, np.random.default_rng(seed))
        q, varied = _q_values(p, values, len(groups)), np.ptp(values, axis=0) > SAME
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
    tests = _pair_tests(groups, labels, strata, np.stack(units.pairs), permutations, seed) if places else {}
    together = [
        {"factor": factor, "group": group} | record
        for g, group in enumerate(groups)
        for record in pair_records(listed[g], places, {name: column[g] for name, column in tests.items()}, facts)
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
