"""Is one row better than another on the same samples, and by enough to care? An interval, and yes, no or unclear.

Axis letters: B test samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.evaluation.summary import NORMAL_95

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
