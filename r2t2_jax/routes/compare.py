"""Comparison of two recordings: which experts serve more or fewer tokens in the second, with intervals.

Samples of both recordings are paired if they are the same questions: two checkpoints on one set. Otherwise the
recordings are two independent groups of samples: two sets. Usage, weight and units are those of `expert_map`.

Axis letters: U units, N layers, E experts, F = N x E entries, k chosen experts, T tokens, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import false_discovery_control

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.statistics import RESAMPLES, mean_interval
from r2t2_jax.routes.expert_map import QUANTITIES, Units, permutation_test
from r2t2_jax.routes.recording import Recording, RecordingFacts, SampleRoutes

BLOCK = 1024  # entries that are resampled at a time
NULL_PERMUTATIONS = 200  # for the movement of a layer that is expected by chance
Key = tuple[str, ...]


@dataclass(frozen=True)
class ExpertComparison:
    """The differences of the second recording from the first.

    Args:
        layers, experts: names.
        groups: compared groups of the factor, or `ALL`.
        units: number of units of the two recordings in each group; of pairs, if samples are paired.
        paired: whether samples are paired.
        left_out: samples without a partner, if samples are paired.
        entries: a record for each group, layer and expert.
        movement: a record for each group and layer.
        tested, significant: number of tests of each quantity, and of those with q at most the rate.
    """

    layers: tuple[str, ...]
    experts: tuple[str, ...]
    groups: tuple[str, ...]
    units: dict[str, tuple[int, int]]
    paired: bool
    left_out: int
    entries: list[dict[str, Any]]
    movement: list[dict[str, Any]]
    tested: dict[str, int]
    significant: dict[str, int]


@dataclass(frozen=True)
class _Side:
    """The units of one recording, and the key by which each sample is paired."""

    units: Units
    keys: list[Key]


def compare_recordings(
    first: Recording,
    second: Recording,
    factor: str | None = None,
    permutations: int = 1000,
    rate: float = 0.05,
    seed: int = 0,
) -> ExpertComparison:
    """Compare two recordings of models with the same layers.

    Args:
        first, second: the recordings; differences are those of the second from the first.
        factor: `category` or `modality`: compare within each group that both have; `None` for all tokens together.
        permutations: of the labels of the recordings; the smallest p-value is 1 / (permutations + 1).
        rate: of false discoveries.
        seed: of permutations and resamples.

    Raises:
        R2T2Error: layers, experts or experts per token differ, a file is damaged, or no group is in both recordings.
    """
    facts = _common_facts(first, second)
    by_token = _same_prompts(first, second)
    sides = [_side(recording, factor, facts, by_token) for recording in (first, second)]
    common = [key for key in dict.fromkeys(sides[0].keys) if key in set(sides[1].keys)]
    paired = len(common) > 1
    groups = tuple(group for group in dict.fromkeys(sorted(sides[0].units.groups)) if group in sides[1].units.groups)
    rows = {group: _rows(sides, group, common if paired else None) for group in groups}
    groups = tuple(group for group in groups if all(len(each) > 1 for each in rows[group]))
    if not groups:
        named = "groups" if factor is None else f"groups of {factor}"
        raise R2T2Error(f"{first.folder} and {second.folder} have no {named} with two or more samples in both")
    has_weights = first.facts.weights and second.facts.weights
    columns: dict[str, list[np.ndarray]] = {}
    tested, significant = {}, {}
    for quantity in QUANTITIES[: 1 + has_weights]:
        tests = [_test(quantity, sides, rows[group], paired, permutations, seed) for group in groups]
        p, varied = (np.stack([test.pop(name) for test in tests]) for name in ("p", "varied"))
        q = np.ones_like(p)
        if varied.any():
            q[varied] = false_discovery_control(p[varied])
        tested[quantity], significant[quantity] = int(varied.sum()), int((q <= rate).sum())
        for name in tests[0]:
            columns[f"{quantity}_{name}"] = [test[name] for test in tests]
        columns |= {f"{quantity}_p": list(p), f"{quantity}_q": list(q)}
    shape = (len(facts.layers), len(facts.experts))
    entries = [
        {"group": group, "layer": layer, "expert": expert}
        | {name: float(column[g].reshape(shape)[i, e]) for name, column in columns.items()}
        for g, group in enumerate(groups)
        for i, layer in enumerate(facts.layers)
        for e, expert in enumerate(facts.experts)
    ]
    overlap = token_overlap(first, second) if paired and factor is None else None
    quantity = "weight" if facts.top_k == len(facts.experts) and has_weights else "usage"
    movement = [
        record
        for group in groups
        for record in _movement(group, quantity, sides, rows[group], paired, facts, overlap, seed)
    ]
    units = {group: (len(rows[group][0]), len(rows[group][1])) for group in groups}
    left_out = sum(len(set(side.keys)) for side in sides) - 2 * len(common) if paired else 0
    return ExpertComparison(
        facts.layers, facts.experts, groups, units, paired, left_out, entries, movement, tested, significant
    )


def _common_facts(first: Recording, second: Recording) -> RecordingFacts:
    """The facts that both recordings share; of two lists of experts, one of which begins with the other, the longer.

    Imported recordings know no experts beyond the largest id that they hold.

    Raises:
        R2T2Error: the recordings are of models with other layers, experts or experts per token, or of other tokens.
    """
    one, other = first.facts, second.facts
    both = f"{first.folder} and {second.folder}"
    if one.layers != other.layers:
        raise R2T2Error(
            f"{both} have other layers ({len(one.layers)} from {one.layers[0]!r} on, {len(other.layers)} from "
            f"{other.layers[0]!r} on): compare recordings of one architecture"
        )
    shorter, longer = sorted((one.experts, other.experts), key=len)
    if one.top_k != other.top_k or longer[: len(shorter)] != shorter:
        raise R2T2Error(
            f"{both} have {one.top_k} of {len(one.experts)} and {other.top_k} of {len(other.experts)} experts per "
            "token, or experts of other names: compare recordings of one architecture"
        )
    if one.tokens != other.tokens:
        raise R2T2Error(f"{both} hold other tokens (--tokens {one.tokens} and {other.tokens}): record the same")
    return replace(one, experts=longer)


def _same_prompts(first: Recording, second: Recording) -> bool:
    """Whether the first samples of an equal id in both recordings have equal prompts, whose token ids are known.

    Sources then need not agree: imported recordings have the name of a file there.
    """
    sample = next(first.samples(), None)
    other = next((each for each in second.samples() if sample is not None and each.id == sample.id), None)
    return sample is not None and other is not None and bool(_prompt(sample)) and _prompt(sample) == _prompt(other)


def _prompt(sample: SampleRoutes) -> tuple[int, ...]:
    tokens = sample.tokens[np.asarray(sample.kinds) != "answer"]
    return () if (tokens < 0).any() else tuple(tokens.tolist())


def _side(recording: Recording, factor: str | None, facts: RecordingFacts, by_prompt: bool) -> _Side:
    side = _Side(Units(), [])
    for number, sample in enumerate(recording.samples()):
        side.keys.append((sample.id, str(_prompt(sample))) if by_prompt else (sample.id, sample.source))
        for _ in side.units.add(number, sample, factor, facts):
            pass
    return side


def _rows(sides: Sequence[_Side], group: str, common: list[Key] | None) -> list[list[int]]:
    """The units of a group on both sides; with `common` the pairs, in one order."""
    by_side = [[i for i, name in enumerate(side.units.groups) if name == group] for side in sides]
    if not common:
        return by_side
    by_key = [
        {side.keys[side.units.samples[i]]: i for i in reversed(rows)} for side, rows in zip(sides, by_side, strict=True)
    ]
    shared = [key for key in common if all(key in rows for rows in by_key)]
    return [[rows[key] for key in shared] for rows in by_key]


def _test(
    quantity: str, sides: Sequence[_Side], rows: Sequence[list[int]], paired: bool, permutations: int, seed: int
) -> dict[str, np.ndarray]:
    """Means, difference, its interval and p-value, and whether any unit differs, each [F]."""
    values = [_values(quantity, side, chosen) for side, chosen in zip(sides, rows, strict=True)]
    both, labels, strata = _stacked(values, paired)
    _, p = permutation_test(both, labels, strata, permutations, np.random.default_rng(seed))
    low, high = bootstrap_difference(values[0], values[1], paired, np.random.default_rng(seed))
    means = [each.mean(axis=0) for each in values]
    return {
        "first": means[0], "second": means[1], "difference": means[1] - means[0], "low": low, "high": high,
        "p": p[1], "varied": np.ptp(both, axis=0) > 1e-9,
    }  # fmt: skip


def _values(quantity: str, side: _Side, rows: Sequence[int]) -> Float[np.ndarray, "U F"]:
    values = getattr(side.units, quantity)
    return np.stack([values[i].reshape(-1) for i in rows])


def _stacked(
    values: Sequence[Float[np.ndarray, "U F"]], paired: bool
) -> tuple[Float[np.ndarray, "2U F"], Int[np.ndarray, "2U"], Int[np.ndarray, "2U"] | None]:
    """The units of both sides, their labels 0 and 1, and their strata: the pairs."""
    counts = [len(each) for each in values]
    strata = np.concatenate([np.arange(count) for count in counts]) if paired else None
    return np.concatenate(values), np.repeat([0, 1], counts), strata


def bootstrap_difference(
    first: Float[np.ndarray, "U F"],
    second: Float[np.ndarray, "V F"],
    paired: bool,
    random: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "F"]]:
    """The 95 % percentile interval of the difference of means, over resampled units, or over resampled pairs."""
    counts = [len(first), len(second)]
    shares = [random.multinomial(count, np.full(count, 1 / count), resamples) / count for count in counts]
    if paired:
        shares[1] = shares[0]
    bounds = []
    for start in range(0, first.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        means = shares[1] @ second[:, part] - shares[0] @ first[:, part]  # [R, F]
        bounds.append(np.quantile(means, [0.025, 0.975], axis=0))
    low, high = np.concatenate(bounds, axis=1)
    return low, high


def _movement(
    group: str, quantity: str, sides: Sequence[_Side], rows: Sequence[list[int]], paired: bool,
    facts: RecordingFacts, overlap: dict[str, list[float]] | None, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each layer the share of the choices, or of the weight, that is with other experts in the second recording.

    It is half the sum of the differences' sizes, and above zero by chance; `expected` is its mean over permutations of
    the recordings' labels.
    """
    values = [_values(quantity, side, chosen) for side, chosen in zip(sides, rows, strict=True)]
    both, labels, strata = _stacked(values, paired)
    shape = (len(facts.layers), len(facts.experts))
    total = np.maximum(both.mean(axis=0).reshape(shape).sum(axis=1), 1e-12)

    def moved(second: np.ndarray) -> Float[np.ndarray, "N"]:
        difference = both[second].mean(axis=0) - both[~second].mean(axis=0)
        return np.abs(difference).reshape(shape).sum(axis=1) / (2 * total)

    random, size = np.random.default_rng(seed), len(values[0])
    expected = np.zeros(shape[0])
    for _ in range(NULL_PERMUTATIONS):
        swapped = random.random(size) < 0.5
        order = np.concatenate([swapped, ~swapped]) if strata is not None else random.permutation(labels) == 1
        expected += moved(order) / NULL_PERMUTATIONS
    observed = moved(labels == 1)
    return [
        {"group": group, "layer": layer, "moved": float(observed[i]), "expected": float(expected[i])}
        | ({} if overlap is None else {name: values[i] for name, values in overlap.items()})
        for i, layer in enumerate(facts.layers)
    ]


def token_overlap(first: Recording, second: Recording) -> dict[str, list[float]] | None:
    """For each layer the share of a token's experts that both recordings choose, with its interval over samples.

    Tokens of the prompt are compared, in samples of equal id and tokens at the same place of both recordings; `None`
    if there are fewer than two.
    """
    shares = []
    for one, other in zip(first.samples(), second.samples(), strict=False):
        rows = [np.asarray(each.kinds) != "answer" for each in (one, other)]
        ids, others = one.experts[rows[0]], other.experts[rows[1]]
        if one.id != other.id or not _prompt(one) or _prompt(one) != _prompt(other) or not len(ids):
            continue
        routed = ((ids >= 0) & (others >= 0)).all(axis=(1, 2))
        if routed.any():
            same = (ids[..., :, None] == others[..., None, :]).any(axis=-1)[routed]  # [T, N, k]
            shares.append(same.mean(axis=(0, 2)))
    if len(shares) < 2:
        return None
    intervals = [mean_interval(column) for column in np.stack(shares).T]
    return {
        "overlap": [each.gain for each in intervals],
        "overlap_low": [each.low for each in intervals],
        "overlap_high": [each.high for each in intervals],
    }
