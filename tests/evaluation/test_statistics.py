"""Statistics of a run compared with values computed by hand or published."""

import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.statistics import (
    by_family,
    gap_recovered,
    models_of,
    summarize,
    summary_content,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_as_published(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_at_the_ends_mirrors() -> None:
    low, high = wilson_interval(20, 20)
    assert (1 - high, 1 - low) == pytest.approx(wilson_interval(0, 20))


def test_gap_recovered() -> None:
    assert gap_recovered(0.65, 0.45, 0.85) == pytest.approx(0.5)
    assert gap_recovered(0.40, 0.45, 0.85) == pytest.approx(-0.125)
    assert gap_recovered(0.65, 0.45, None) is None
    assert gap_recovered(0.65, 0.45, 0.45) is None


def test_summary_by_hand() -> None:
    right = {
        "base": np.array([1, 1, 0, 0, 0], bool),
        "ngd": np.array([1, 0, 1, 1, 0], bool),
        "task_routing": np.array([1, 1, 1, 1, 0], bool),
    }
    result = summarize(right, {"base": 0, "ngd": 100, "task_routing": 1}, ["color", "shape", "shape", "color", "shape"])
    assert result["n"] == 5
    ngd = result["strategies"]["ngd"]
    assert ngd == {
        "accuracy": 0.6,
        "ci95": [round(bound, 6) for bound in wilson_interval(3, 5)],
        "gap_recovered": 0.5,
        "wrong_to_right": 2,
        "right_to_wrong": 1,
        "evaluations_per_sample": 100,
    }
    assert result["strategies"]["base"]["gap_recovered"] == 0
    assert result["families"] == {
        "color": {"n": 2, "accuracy": {"base": 0.5, "ngd": 1.0, "task_routing": 1.0}},
        "shape": {"n": 3, "accuracy": {"base": 0.333333, "ngd": 0.333333, "task_routing": 0.666667}},
    }


def test_families_weighted_by_n_give_the_accuracy() -> None:
    rng = np.random.default_rng(0)
    right = {"base": rng.random(97) < 0.4}
    families = by_family(right, [str(i) for i in rng.integers(0, 5, 97)], {"same": right["base"]})
    total = sum(family["n"] * family["accuracy"]["base"] for family in families.values())
    assert total == pytest.approx(right["base"].sum(), abs=1e-4)
    assert all(family["same"] == family["accuracy"]["base"] for family in families.values())


ROW = {"accuracy": 0.5, "ci95": [0.2, 0.8], "wrong_to_right": 1, "right_to_wrong": 0}


def test_the_content_of_a_summary_is_read_back() -> None:
    numbers = {"toy": {"n": 5, "strategies": {"ngd": {**ROW, "evaluations_per_sample": 100}}}}
    assert summary_content(numbers)["schema"] == 2
    assert models_of(summary_content(numbers), "run") == numbers


def test_a_summary_of_an_earlier_demo_is_read_under_the_names_of_today() -> None:
    gate = {
        "n": 2,
        "strategies": {"ngd": {**ROW, "evaluations_per_case": 100}},
        "families": {"kept": {"n": 1, "accuracy": {"ngd": 0.5}}},
        "references": {"asked": 3, "kept": 2},
    }
    expected = {
        "n": 2,
        "strategies": {"ngd": {**ROW, "evaluations_per_sample": 100}},
        "families": {"kept": {"n": 1, "accuracy": {"ngd": 0.5}}},
        "references": {"candidates": 3, "correct": 2},
    }
    assert models_of({"gates": {"narrow": gate}}, "run") == {"pocket:narrow": expected}
    assert models_of({"models": {"toy on set": gate}}, "run") == {"toy on set": expected}


NEGATIVE = {"n": 4, "strategies": {"ngd": ROW | {"right_to_wrong": -3, "evaluations_per_sample": 1}}}


@pytest.mark.parametrize(
    ("summary", "cause"),
    [
        ({"schema": 3, "models": {}}, "run has a summary of schema 3; this version reads up to 2"),
        ({"rows": 7}, "run has a summary without accuracies of models"),
        ({"schema": 2, "models": {"toy": NEGATIVE}}, "'strategies.ngd.right_to_wrong' is -3"),
    ],
)
def test_another_summary_is_refused_by_name(summary: dict, cause: str) -> None:
    with pytest.raises(R2T2Error, match=cause):
        models_of(summary, "run")
