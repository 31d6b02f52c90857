"""Causes of answers that turned wrong, and how well the neighbors' loss predicts a sample's own: six samples by hand.

Axis letters: B samples, K neighbors, P points of a path.
"""

import dataclasses

import numpy as np
import pytest

from r2t2_jax.reporting.failure_causes import CAUSES, count_causes, failure_causes
from r2t2_jax.reporting.figures.similarity import similarity_figure
from r2t2_jax.reporting.figures.surrogate import reliability, surrogate_figure
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
    """Sample 0 stays right; samples 1 to 5 turn wrong, each for another cause."""
    ngd = strategy_rows("ngd", [True] + 5 * [False], [FALLS, FALLS, FALLS, FALLS, RISES, FALLS])  # 4 and 5
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


def test_each_answer_that_turned_wrong_has_the_first_cause_that_applies(results: ModelResults) -> None:
    rows = failure_causes(results)
    causes = {row["id"]: row["cause"] for row in rows}
    assert causes == {
        "sample-1": "distant neighbors",
        "sample-2": "other family",
        "sample-3": "loss did not decrease",
        "sample-4": "misleading neighbors",
        "sample-5": "competing answer",
    }
    assert count_causes(rows) == dict.fromkeys(causes.values(), 1)
    assert set(causes.values()) < set(CAUSES)


def test_without_losses_along_the_path_failures_are_unexplained(results: ModelResults) -> None:
    ngd = dataclasses.replace(results.strategies["ngd"], own_losses=np.zeros((B, 0)))
    results = dataclasses.replace(results, strategies={**results.strategies, "ngd": ngd})
    causes = {row["id"]: row["cause"] for row in failure_causes(results)}
    assert causes["sample-4"] == causes["sample-5"] == "unexplained"
    assert surrogate_figure(results) is None


def test_losses_that_decrease_together_correlate_positively_and_opposite_ones_negatively(results: ModelResults) -> None:
    measured = reliability(results.explained)
    assert measured is not None
    np.testing.assert_allclose(measured.correlation, [1, 1, 1, 0, -1, 1])  # 0: the neighbors' loss is constant
    np.testing.assert_array_equal(measured.own_decreased, [True, True, True, True, False, True])
    spec = surrogate_figure(results)
    assert spec is not None
    assert "4 of the 5 answers that turned wrong" in spec.text
    assert [row["rank_correlation"] for row in spec.rows] == [1, 1, 1, 0, -1, 1]


def test_similarity_counts_every_question_once_from_the_least_to_the_most_similar(results: ModelResults) -> None:
    spec = similarity_figure(results)
    assert spec is not None
    assert sum(row["n"] for row in spec.rows) == B
    assert spec.rows[0]["from"] == 0.1
    assert spec.rows[0]["gain_points"] == -50.0  # of the two least similar, samples 0 and 1, sample 1 turned wrong
