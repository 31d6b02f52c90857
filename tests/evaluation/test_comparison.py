"""Paired comparisons: the interval against a worked example and its own level, and when it says yes, no or unclear."""

import numpy as np
import pytest

from r2t2_jax.evaluation.statistics import Comparison, compare, mean_interval


def paired(n: int, better: int, worse: int) -> tuple[np.ndarray, np.ndarray]:
    before, after = np.zeros(n, bool), np.zeros(n, bool)
    after[:better] = True
    before[better : better + worse] = True
    return before, after


def test_the_interval_of_right_answers_is_bonett_and_prices() -> None:
    comparison = compare(*paired(100, better=5, worse=0))
    up, down = 6 / 102, 1 / 102  # by hand: one more of each
    spread = 1.959964 * ((up + down - (up - down) ** 2) / 102) ** 0.5
    assert comparison.gain == 0.05
    assert (comparison.low, comparison.high) == pytest.approx((up - down - spread, up - down + spread))
    assert comparison.low < 0  # five of five changes for the better: McNemar's exact p is 0.0625


def test_a_gain_in_points_is_that_of_shares_times_100() -> None:
    before, after = paired(100, better=12, worse=4)
    shares, points = compare(before, after), compare(before, after).times(100)
    assert (points.gain, points.low, points.high) == pytest.approx((8.0, 100 * shares.low, 100 * shares.high))


def test_without_any_change_the_interval_has_a_width() -> None:
    comparison = compare(*paired(50, 0, 0))
    assert comparison.gain == 0
    assert comparison.high == -comparison.low > 0.04


def test_swapping_the_sides_mirrors_the_interval() -> None:
    before, after = paired(80, 12, 3)
    there, back = compare(before, after), compare(after, before)
    assert (back.gain, back.low, back.high) == pytest.approx((-there.gain, -there.high, -there.low))


@pytest.mark.parametrize(("up", "down"), [(0.05, 0.05), (0.2, 0.05), (0.02, 0.0)])
def test_the_interval_covers_the_truth_about_95_times_in_100(up: float, down: float) -> None:
    rng = np.random.default_rng(0)
    draws = rng.multinomial(60, [up, down, 1 - up - down], size=2000)
    covered = [
        comparison.low <= up - down <= comparison.high
        for comparison in (compare(*paired(60, b, w)) for b, w, _ in draws)
    ]
    assert np.mean(covered) >= 0.94


def test_losses_are_resampled() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(size=400)
    comparison = compare(before, before + 0.3 + 0.1 * rng.normal(size=400))
    assert comparison.gain == pytest.approx(0.3, abs=0.02)
    assert (comparison.high - comparison.low) / 2 == pytest.approx(1.96 * 0.1 / 20, rel=0.15)
    assert mean_interval(np.full(30, 2.0)) == Comparison(2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("low", "high", "reply"),
    [
        (0.01, 0.12, "yes"),
        (-0.02, 0.12, "unclear"),
        (-0.04, 0.04, "no"),
        (0.01, 0.04, "no"),  # real, and too small to care
        (-0.3, -0.1, "no"),
    ],
)
def test_a_gain_is_worthwhile_or_not_or_unclear(low: float, high: float, reply: str) -> None:
    assert Comparison((low + high) / 2, low, high).worth(0.05) == reply


def test_samples_needed_narrow_the_interval_to_the_worthwhile_gain() -> None:
    assert Comparison(0.02, -0.03, 0.07).samples_needed(100, worthwhile=0.05) == 400
    assert Comparison(0.02, -0.033, 0.073).samples_needed(100, worthwhile=0.05) == 450
    assert Comparison(0.0, -0.01, 0.01).samples_needed(100, worthwhile=0.05) == 100
