"""What a run's rows say: accuracy with its interval, share of the gap recovered, what turned right and what wrong.

Plain numpy on `right[strategy]`, one truth value a test sample, in the same order for every strategy.

Axis letters: B test samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

NORMAL_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
DIGITS = 6


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): keeps to [0, 1] and is right at 0 and n, where Wald's is not."""
    share, z = successes / n, NORMAL_95
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def paired_gain(before: Bool[np.ndarray, "B"], after: Bool[np.ndarray, "B"]) -> tuple[float, float, float]:
    """Gain in accuracy on the same samples, with its 95 % interval: only samples that changed count.

    With b turned right and c turned wrong of n, the gain is (b - c) / n and its variance (b + c - (b - c)^2 / n) / n^2
    (Agresti, Categorical Data Analysis, section 11.1).
    """
    n, better, worse = len(before), int((~before & after).sum()), int((before & ~after).sum())
    gain = (better - worse) / n
    spread = NORMAL_95 * math.sqrt(better + worse - (better - worse) ** 2 / n) / n
    return gain, gain - spread, gain + spread


def gap_recovered(accuracy: float, base: float, ceiling: float | None) -> float | None:
    """Share of the gap from `base` to `ceiling`; `None` where there is no gap to recover."""
    if ceiling is None or ceiling <= base:
        return None
    return (accuracy - base) / (ceiling - base)


def summarize(
    right: Mapping[str, Bool[np.ndarray, "B"]],
    evaluations: Mapping[str, float],
    categories: Sequence[str],
    columns: Mapping[str, Float[np.ndarray, "B"] | Bool[np.ndarray, "B"]] | None = None,
) -> dict[str, Any]:
    """Numbers of one model on one test set, ready for `summary.json`.

    Args:
        right: for each strategy, which samples it answered correctly; `base` must be among them. The gap is that of
            `task_routing`, where it was run.
        evaluations: for each strategy, r-dependent forward passes a case (value and gradient count two).
        categories: the family of each sample.
        columns: further numbers of each sample, whose mean a family's entry gives under the same name.

    Returns:
        `n`, `strategies` and `families`: for each family its `n`, each strategy's accuracy and the columns' means.
    """
    base = right["base"]
    ceiling = float(right["task_routing"].mean()) if "task_routing" in right else None
    strategies = {}
    for name, correct in right.items():
        share = gap_recovered(float(correct.mean()), float(base.mean()), ceiling)
        strategies[name] = {
            "accuracy": round(float(correct.mean()), DIGITS),
            "ci95": [round(bound, DIGITS) for bound in wilson_interval(int(correct.sum()), len(correct))],
            "gap_recovered": None if share is None else round(share, DIGITS),
            "wrong_to_right": int((~base & correct).sum()),
            "right_to_wrong": int((base & ~correct).sum()),
            "evaluations_per_case": evaluations[name],
        }
    return {"n": len(base), "strategies": strategies, "families": by_family(right, categories, columns or {})}


def by_family(
    right: Mapping[str, Bool[np.ndarray, "B"]],
    categories: Sequence[str],
    columns: Mapping[str, Float[np.ndarray, "B"] | Bool[np.ndarray, "B"]],
) -> dict[str, Any]:
    """For each family, in alphabetical order, its `n`, each strategy's accuracy and the mean of each column."""
    families = {}
    for family in sorted(set(categories)):
        member = np.array([category == family for category in categories])
        accuracy = {name: round(float(correct[member].mean()), DIGITS) for name, correct in right.items()}
        means = {name: round(float(values[member].mean()), DIGITS) for name, values in columns.items()}
        families[family] = {"n": int(member.sum()), "accuracy": accuracy, **means}
    return families


Reply = Literal["yes", "no", "unclear"]
RESAMPLES = 2000
TESTS = {
    "right": "paired proportions, adjusted Wald interval (Bonett & Price 2012)",
    "loss": f"mean paired difference, percentile bootstrap of {RESAMPLES:,} resamples",
}


@dataclass(frozen=True)
class Comparison:
    """A mean gain and its 95 % interval."""

    gain: float
    low: float
    high: float

    def worth(self, worthwhile: float) -> Reply:
        """Whether there is a gain worth having.

        `yes`: the interval lies above zero and reaches `worthwhile`. `no`: it stays below `worthwhile`, so a gain, real
        or not, would be too small. `unclear`: it holds both zero and gains worth having; more samples would tell.
        """
        if self.high < worthwhile:
            return "no"
        return "yes" if self.low > 0 else "unclear"

    def samples_needed(self, n: int, worthwhile: float) -> int:
        """How many samples would bring the interval down to the width of `worthwhile`, to two digits upwards."""
        needed = n * ((self.high - self.low) / worthwhile) ** 2
        digits = 10 ** max(0, int(math.log10(max(needed, 1))) - 1)
        return max(n, digits * math.ceil(needed / digits))


def compare(
    before: Bool[np.ndarray, "B"] | Float[np.ndarray, "B"], after: Bool[np.ndarray, "B"] | Float[np.ndarray, "B"]
) -> Comparison:
    """The paired gain from `before` to `after`: of right answers, or of any values of which more is better.

    For right answers the interval is that of Bonett & Price (2012, Psychological Methods 17): one sample more that
    turned right and one more that turned wrong. It keeps its level for few samples and few changes, where the plain
    interval shrinks to nothing. For other values it is a percentile bootstrap over samples.
    """
    if before.dtype != bool:
        return mean_interval(after - before)
    n, better, worse = len(before), int((~before & after).sum()), int((before & ~after).sum())
    up, down = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    spread = NORMAL_95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Comparison((better - worse) / n, up - down - spread, up - down + spread)


def mean_interval(values: Float[np.ndarray, "B"], seed: int = 0) -> Comparison:
    """A mean with its percentile bootstrap interval."""
    rng, n = np.random.default_rng(seed), len(values)
    at_a_time = 100  # resamples, which bounds memory
    means = [values[rng.integers(n, size=(at_a_time, n))].mean(axis=1) for _ in range(RESAMPLES // at_a_time)]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Comparison(float(values.mean()), float(low), float(high))
