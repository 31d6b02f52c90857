"""Which settings are tried and on how many questions."""

import itertools

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.tuning_grid import Budget, HalvingRound, grid_presets, plan_in_words, rungs, sample_order
from r2t2_jax.method.presets import Preset


def test_a_grid_has_every_combination_and_keeps_what_does_not_vary() -> None:
    grid = grid_presets(
        Preset.from_mapping({"descent.steps": 7}),
        {"space.kind": ("free", "logit"), "neighborhood.k": (3, 4, 5), "descent.learning_rate": (0.3,)},
    )
    assert len(grid) == 6
    assert {(preset.space.kind, preset.neighborhood.k) for preset in grid} == {
        (s, k) for s in ("free", "logit") for k in (3, 4, 5)
    }
    assert all(preset.descent.steps == 7 and preset.descent.final_learning_rate == 0.3 / 30 for preset in grid)


def test_temperatures_left_open_suit_the_loss() -> None:
    open_ = {"atlas.loss": ("bounded", "cross_entropy"), "atlas.temperature": None, "atlas.proximal_weight": (0.0,)}
    grid = grid_presets(Preset(), open_, "atlas")
    tried = {loss: [p.atlas.temperature for p in grid if p.atlas.loss == loss] for loss in open_["atlas.loss"]}
    assert len(grid) == 8
    assert min(tried["bounded"]) < min(tried["cross_entropy"]) < max(tried["bounded"]) < max(tried["cross_entropy"])
    given = grid_presets(Preset(), open_ | {"atlas.temperature": (0.3,)}, "atlas")
    assert [(p.atlas.loss, p.atlas.temperature) for p in given] == [("bounded", 0.3), ("cross_entropy", 0.3)]


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"spice": (1,)}, "a preset has no setting 'spice'"),
        ({"neighborhood.k": ()}, "no values of 'neighborhood.k' to try"),
        ({"neighborhood.k": (0,)}, "k=0 neighbours"),
        ({"neighborhood.kernel": ("cosine",)}, "unknown kernel 'cosine'"),
    ],
)
def test_what_cannot_be_tried_is_refused(values: dict, cause: str) -> None:
    with pytest.raises(R2T2Error, match=cause):
        grid_presets(Preset(), values)


@pytest.mark.parametrize(
    ("text", "budget"),
    [(None, Budget()), ("40", Budget(settings=40)), ("90m", Budget(minutes=90)), ("1.5h", Budget(minutes=90))],
)
def test_budgets(text: str | None, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["0", "1.5", "soon", "-3", "10s", ""])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(R2T2Error, match="neither a number of settings"):
        Budget.parse(text)


def test_a_budget_leaves_out_anybody_by_the_seed() -> None:
    grid = grid_presets(Preset(), {"neighborhood.k": tuple(range(1, 31))})
    few = sample_order(grid, Budget(settings=10), seed=1)
    assert len(set(few)) == 10 and set(few) < set(grid)
    assert few == sample_order(grid, Budget(settings=10), seed=1) != sample_order(grid, Budget(settings=10), seed=2)
    assert sorted(preset.neighborhood.k for preset in sample_order(grid, Budget(), seed=3)) == list(range(1, 31))


@pytest.mark.parametrize(
    ("settings", "questions", "plan"),
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
def test_rungs(settings: int, questions: int, plan: list[HalvingRound]) -> None:
    found = rungs(settings, questions)
    assert found[: len(plan)] == plan
    assert (found[0].start, found[-1].stop) == (0, questions)
    assert all(before.stop == after.start for before, after in itertools.pairwise(found))
    assert found[-1].settings >= min(settings, 4)


def test_the_plan_in_words() -> None:
    few = plan_in_words(6, 6, rungs(6, 80), Budget())
    assert few == "6 settings: few enough to measure each on all 80 questions."
    many = plan_in_words(288, 40, rungs(40, 100), Budget(settings=40))
    assert "288 settings, 40 of them drawn at random" in many
    assert "successive halving, 40 on 50 questions, then 14 on 100 questions" in many
    assert "After 10 minutes no further setting is begun" in plan_in_words(40, 40, rungs(40, 100), Budget(minutes=20))
