"""The grid of settings, the budget, and the rounds of successive halving."""

import itertools

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.tuning_grid import (
    Budget,
    HalvingRound,
    describe_plan,
    grid_presets,
    halving_rounds,
    sample_order,
)
from r2t2_jax.method.presets import Preset


def test_a_grid_has_every_combination_and_keeps_the_other_settings() -> None:
    grid = grid_presets(
        Preset.from_mapping({"descent.steps": 7}),
        {"space.kind": ("free", "logit"), "neighborhood.k": (3, 4, 5), "descent.learning_rate": (0.3,)},
    )
    assert len(grid) == 6
    assert {(preset.space.kind, preset.neighborhood.k) for preset in grid} == {
        (s, k) for s in ("free", "logit") for k in (3, 4, 5)
    }
    assert all(preset.descent.steps == 7 and preset.descent.final_learning_rate == 0.3 / 30 for preset in grid)


def test_default_temperatures_depend_on_the_loss() -> None:
    values = {"atlas.loss": ("bounded", "cross_entropy"), "atlas.temperature": None, "atlas.proximal_weight": (0.0,)}
    grid = grid_presets(Preset(), values, "atlas")
    tried = {loss: [p.atlas.temperature for p in grid if p.atlas.loss == loss] for loss in values["atlas.loss"]}
    assert len(grid) == 8
    assert min(tried["bounded"]) < min(tried["cross_entropy"]) < max(tried["bounded"]) < max(tried["cross_entropy"])
    presets = grid_presets(Preset(), values | {"atlas.temperature": (0.3,)}, "atlas")
    assert [(p.atlas.loss, p.atlas.temperature) for p in presets] == [("bounded", 0.3), ("cross_entropy", 0.3)]


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"spice": (1,)}, "a preset has no setting 'spice'"),
        ({"neighborhood.k": ()}, "no values of 'neighborhood.k' to try"),
        ({"neighborhood.k": (0,)}, "k=0 neighbors"),
        ({"neighborhood.kernel": ("cosine",)}, "unknown kernel 'cosine'"),
    ],
)
def test_bad_settings_are_refused(values: dict, cause: str) -> None:
    with pytest.raises(R2T2Error, match=cause):
        grid_presets(Preset(), values)


@pytest.mark.parametrize(
    ("text", "budget"),
    [(None, Budget()), ("40", Budget(settings=40)), ("90m", Budget(minutes=90)), ("1.5h", Budget(minutes=90))],
)
def test_budgets_are_parsed(text: str | None, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["0", "1.5", "soon", "-3", "10s", ""])
def test_a_bad_budget_is_refused(text: str) -> None:
    with pytest.raises(R2T2Error, match="neither a number of settings"):
        Budget.parse(text)


def test_a_budget_draws_settings_at_random_by_seed() -> None:
    grid = grid_presets(Preset(), {"neighborhood.k": tuple(range(1, 31))})
    few = sample_order(grid, Budget(settings=10), seed=1)
    assert len(set(few)) == 10 and set(few) < set(grid)
    assert few == sample_order(grid, Budget(settings=10), seed=1) != sample_order(grid, Budget(settings=10), seed=2)
    assert sorted(preset.neighborhood.k for preset in sample_order(grid, Budget(), seed=3)) == list(range(1, 31))


@pytest.mark.parametrize(
    ("settings", "questions", "expected"),
    [
        (12, 1000, [HalvingRound(12, 0, 1000)]),
        (300, 50, [HalvingRound(300, 0, 50)]),
        (
            288,
            400,
            [
                HalvingRound(288, 0, 50),
                HalvingRound(96, 50, 100),
                HalvingRound(32, 100, 200),
                HalvingRound(11, 200, 400),
            ],
        ),
        (20, 130, [HalvingRound(20, 0, 50), HalvingRound(7, 50, 130)]),
        (
            13,
            100_000,
            [HalvingRound(13, 0, 50), HalvingRound(5, 50, 100), HalvingRound(4, 100, 200), HalvingRound(4, 200, 400)],
        ),
    ],
)
def test_rounds_have_fewer_settings_and_more_questions(
    settings: int, questions: int, expected: list[HalvingRound]
) -> None:
    rounds = halving_rounds(settings, questions)
    assert rounds[: len(expected)] == expected
    assert (rounds[0].start, rounds[-1].stop) == (0, questions)
    assert all(before.stop == after.start for before, after in itertools.pairwise(rounds))
    assert rounds[-1].settings >= min(settings, 4)


def test_the_describe_plan() -> None:
    few = describe_plan(6, 6, halving_rounds(6, 80), Budget())
    assert few == "6 settings: few enough to measure all on all 80 questions."
    many = describe_plan(288, 40, halving_rounds(40, 100), Budget(settings=40))
    assert "288 settings, 40 of them drawn at random" in many
    assert "successive halving, 40 on 50 questions, then 14 on 100 questions" in many
    assert "After 10 minutes no further setting is started" in describe_plan(
        40, 40, halving_rounds(40, 100), Budget(minutes=20)
    )
