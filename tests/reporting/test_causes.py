"""Why answers turned wrong, and how far the neighbours' loss is to be trusted: six samples worked out by hand.

Axis letters: B samples, K neighbours, P points of a path.
"""

import dataclasses

import numpy as np
import pytest

from r2t2_jax.reporting.figures.similarity import similarity
from r2t2_jax.reporting.figures.surrogate import reliability, surrogate
from r2t2_jax.reporting.report import CAUSES, cause_rows, causes
from r2t2_jax.reporting.results import ModelResults, StrategyRows

B, K, P = 6, 2, 4
FALLS, RISES = [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]


def strategy_rows(name: str, right: list[bool], own: list[list[float]]) -> StrategyRows:
    weights = np.full((B, 1, 2), 0.5)
    return StrategyRows(
        name=name,
        predictions=[f"{name} {i}" for i in range(B)],
        right=np.array(right),
        weights=weights,
        path=np.repeat(weights[:, None], P, axis=1),
        losses=np.array([FALLS[:3]] * B),
        step_predictions=[[] for _ in range(B)],
        step_right=np.zeros((B, 0), bool),
        own_losses=np.array(own),
        neighbors=[["here", "there"] for _ in range(B)],
        similarities=np.tile([0.9, 0.8], (B, 1)),
        kernel_weights=np.tile([0.75, 0.25], (B, 1)),
        used_fallback=np.zeros(B, bool),
        evaluations=2,
    )


@pytest.fixture
def results() -> ModelResults:
    """Sample 0 stays right; 1 has a far neighbour, 2 foreign ones, 3 learns nothing, 4 is misled, 5 tips over."""
    ngd = strategy_rows("ngd", [True] + 5 * [False], [FALLS, FALLS, FALLS, FALLS, RISES, FALLS])
    ngd.similarities[1] = 0.1
    ngd.neighbors[2] = ["there", "here"]  # three quarters of the weight on another family
    ngd.losses[3] = [1.0, 1.0, 1.0]
    families = {"here": {"category": "color"}, "there": {"category": "shape"}}
    return ModelResults(
        name="toy",
        experts=("one", "two"),
        layers=("layer 1",),
        ids=[f"sample-{i}" for i in range(B)],
        categories=["color"] * B,
        questions=[f"Question {i}?" for i in range(B)],
        answers=[[f"truth {i}"] for i in range(B)],
        router_weights=np.full((B, 1, 2), 0.5),
        strategies={"base": strategy_rows("base", [True] * B, [FALLS] * B), "ngd": ngd},
        summary={},
        run={},
        seconds={},
        references={name: {"id": name, **family} for name, family in families.items()},
    )


def test_each_lost_answer_has_the_first_cause_that_applies(results: ModelResults) -> None:
    found = {row["id"]: row["cause"] for row in cause_rows(results)}
    assert found == {
        "sample-1": "far neighbours",
        "sample-2": "another family",
        "sample-3": "nothing learnt",
        "sample-4": "misled",
        "sample-5": "tipped over",
    }
    shown = str(causes(results, cause_rows(results)))
    assert all(cause in shown for cause in found.values())
    assert "unexplained" in CAUSES and "unexplained" not in shown


def test_without_losses_along_the_path_nothing_is_made_up(results: ModelResults) -> None:
    silent = dataclasses.replace(results.strategies["ngd"], own_losses=np.zeros((B, 0)))
    told = dataclasses.replace(results, strategies={**results.strategies, "ngd": silent})
    found = {row["id"]: row["cause"] for row in cause_rows(told)}
    assert found["sample-4"] == found["sample-5"] == "unexplained"
    assert surrogate(told) is None


def test_losses_that_fall_together_correlate_and_opposite_ones_do_the_opposite(results: ModelResults) -> None:
    found = reliability(results.explained)
    assert found is not None
    np.testing.assert_allclose(found.correlation, [1, 1, 1, 0, -1, 1])  # sample 3's neighbours say nothing
    np.testing.assert_array_equal(found.fell, [True, True, True, True, False, True])
    picture = surrogate(results)
    assert picture is not None
    assert "4 of the 5 answers that turned wrong" in picture.text
    assert [row["rank_correlation"] for row in picture.rows] == [1, 1, 1, 0, -1, 1]


def test_similarity_counts_every_question_once_from_far_to_near(results: ModelResults) -> None:
    picture = similarity(results)
    assert picture is not None
    assert sum(row["n"] for row in picture.rows) == B
    assert picture.rows[0]["from"] == 0.1
    assert picture.rows[0]["gain_points"] == -50.0  # of the two least alike one was lost: sample 1, beside sample 0
