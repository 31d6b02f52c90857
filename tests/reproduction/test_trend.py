"""Tests of orderings on tables small enough to compute by hand."""

import numpy as np
import pytest

from r2t2_jax.reproduction.trend import averages, resampled_averages, trend, verdict

PAPER = {"low": 70.0, "middle": 75.0, "high": 80.0}


def scores(n: int, **right: int) -> np.ndarray:
    """For each row the given number of the n samples is correct."""
    return np.stack([np.arange(n) < count for count in right.values()], axis=1).astype(float)


def test_a_clear_ordering_holds() -> None:
    result = trend(["low", "middle", "high"], PAPER, [scores(200, low=60, middle=110, high=160)])
    assert result is not None
    assert (result["verdict"], result["shown"], result["reversed"], result["open"]) == ("holds", 3, 0, 0)
    assert result["tau"] == 1.0 and result["tau_ci95"] == [1.0, 1.0]
    pair = next(pair for pair in result["pairs"] if (pair["better"], pair["worse"]) == ("high", "low"))
    assert pair["paper_points"] == 10.0
    assert pair["points"] == 50.0  # 160 - 60 of 200
    assert pair["interval"][0] < 50.0 < pair["interval"][1]


def test_the_opposite_ordering_is_reversed() -> None:
    result = trend(["low", "middle", "high"], PAPER, [scores(200, low=160, middle=110, high=60)])
    assert result is not None
    assert (result["verdict"], result["reversed"], result["tau"]) == ("reversed", 3, -1.0)


def test_equal_rows_leave_it_open() -> None:
    result = trend(["low", "middle", "high"], PAPER, [scores(200, low=100, middle=100, high=100)])
    assert result is not None
    assert (result["verdict"], result["open"], result["tau"]) == ("open", 3, 0.0)
    assert all(pair["interval"] == [0.0, 0.0] for pair in result["pairs"])


def test_one_pair_shown_and_one_reversed_is_mixed() -> None:
    result = trend(["low", "middle", "high"], PAPER, [scores(200, low=60, middle=160, high=60)])
    assert result is not None
    verdicts = {(pair["better"], pair["worse"]): pair["verdict"] for pair in result["pairs"]}
    assert verdicts == {("middle", "low"): "shown", ("high", "low"): "open", ("high", "middle"): "reversed"}
    assert result["verdict"] == "mixed"


def test_two_of_two_hundred_samples_leave_a_pair_open() -> None:
    result = trend(["low", "high"], PAPER, [scores(200, low=100, high=102)])
    assert result is not None
    assert result["open"] == 1


def test_more_comparisons_widen_the_intervals() -> None:
    """Six of 200 answers differ: a resample has none of them with probability 1/400, rare for 1 pair, not for 45."""
    few = trend(["low", "high"], PAPER, [scores(200, low=100, high=106)])
    assert few is not None
    assert few["shown"] == 1
    names = [f"row{i}" for i in range(10)]
    counts = dict.fromkeys(names[:9], 100) | {"row9": 106}
    many = trend(names, {name: float(i) for i, name in enumerate(names)}, [scores(200, **counts)])
    assert many is not None
    assert (many["shown"], many["open"]) == (0, 45)


def test_rows_that_the_paper_lacks_or_ties_form_no_pair() -> None:
    assert trend(["low", "ours"], PAPER, [scores(10, low=3, ours=9)]) is None
    assert trend(["a", "b"], {"a": 80.7, "b": 80.7}, [scores(10, a=3, b=9)]) is None


def test_test_sets_have_equal_weight_for_any_size() -> None:
    values = [scores(10, a=10, b=0), scores(1000, a=0, b=500)]
    np.testing.assert_allclose(averages(values), [0.5, 0.25])
    resampled = resampled_averages(values)
    np.testing.assert_allclose(resampled.mean(axis=0), [0.5, 0.25], atol=0.002)
    assert resampled[:, 0].std() == 0  # all correct in one set and all wrong in the other


@pytest.mark.parametrize(
    ("shown", "reversed_", "still_open", "word"),
    [(3, 0, 0, "holds"), (1, 0, 2, "partly"), (1, 1, 1, "mixed"), (0, 1, 2, "reversed"), (0, 0, 3, "open")],
)
def test_the_verdict_on_a_table_follows_from_its_pairs(shown: int, reversed_: int, still_open: int, word: str) -> None:
    assert verdict({"shown": shown, "reversed": reversed_, "open": still_open}) == word
