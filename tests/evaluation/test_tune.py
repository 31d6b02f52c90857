"""The search on the toy port: it finds the best setting, shares programs, can be resumed, and keeps its time limit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from r2t2_jax.bank.build_atlas import AtlasPlan, build_atlas
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation import tune as module
from r2t2_jax.evaluation.batch import PreparedBatch
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.evaluation.tune import (
    MeasuredSetting,
    Tuning,
    cheapest_good_setting,
    prepare_tuning,
    refuse_test,
    tuned_preset,
    tuning_plan,
)
from r2t2_jax.evaluation.tuning_grid import HalvingRound, grid_presets
from r2t2_jax.method import rerouting
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.runs.run import Run
from tests.toy_port import make_samples, toy

METRIC, PORT = get_metric("exact_match"), toy()
BANK = collect_bank(PORT, make_samples(40, seed=1, hinted=0.6), METRIC)
QUESTIONS = encode_questions(PORT, make_samples(60, seed=2, hinted=0.1))
BASE = Preset.from_mapping({"space.kind": "simplex", "descent.optimizer": "adam", "descent.steps": 4})
VARIED = ("descent.learning_rate", "neighborhood.k", "neighborhood.kernel")
# A learning rate without effect, and one with an effect, which is the best setting.
PRESETS = grid_presets(
    BASE,
    {"descent.learning_rate": (1e-6, 0.5), "neighborhood.k": (2, 4), "neighborhood.kernel": ("gaussian", "linear")},
)
ROUNDS = [HalvingRound(8, 0, 30), HalvingRound(3, 30, 60)]


def tuning_of(run: Run, **changes) -> Tuning:
    batch = prepare_tuning(PORT, BANK, QUESTIONS, PRESETS, METRIC)
    return Tuning(run, {PORT.name: batch}, ROUNDS, **changes)


def open_run(out: Path) -> Run:
    return Run.open(out, "tune", {}, tuning_plan([PORT.name], ROUNDS))


def search(out: Path) -> dict:
    with open_run(out) as run:
        tuning = tuning_of(run)
        return tuned_preset("toy", PRESETS, VARIED, tuning, tuning.search())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return search(tmp_path_factory.mktemp("tuning") / "run")


def test_the_best_setting_is_found_and_of_equal_ones_the_cheapest(whole: dict) -> None:
    assert whole["settings"]["descent"]["learning_rate"] == 0.5
    assert whole["settings"]["neighborhood"]["k"] == 2
    assert whole["settings"]["fragile"]["measure"] == "none"
    assert Preset.from_mapping({k: v for k, v in whole["settings"].items() if k != "fragile"}) in PRESETS
    evidence = whole["evidence"]
    assert evidence["accuracy"] > evidence["base"]["accuracy"] + 0.3
    assert evidence["gain_over_base"]["ci95"][0] > 0
    assert [row["n"] for row in evidence["table"]] == [60] * 3 + [30] * 5
    assert evidence["tried"] == 8


def test_its_numbers_equal_those_of_an_evaluation(whole: dict) -> None:
    chosen = Preset.from_mapping(whole["settings"])
    named = {"ngd": strategy("ngd", chosen), "base": strategy("base"), "uniform": strategy("uniform")}
    for result in evaluate(PORT, BANK, QUESTIONS, named, METRIC):
        row = whole["evidence"] if result.name == "ngd" else whole["evidence"][result.name]
        assert row["accuracy"] == pytest.approx(result.right.mean(), abs=1e-6)
    assert whole["evidence"]["evaluations_per_sample"] == 1 + 2 * 4 * 2 + 1


def test_an_interrupted_search_has_the_same_result(
    whole: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, calls = PreparedBatch.answer, []

    def failing(self, name, rows):
        calls.append(name)
        if len(calls) in (3, 9):  # in each round
            raise KeyboardInterrupt
        return answer(self, name, rows)

    monkeypatch.setattr(module, "threads_at_a_time", lambda: 1)
    monkeypatch.setattr(PreparedBatch, "answer", failing)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "run")
    assert search(tmp_path / "run") == whole
    assert len(calls) == 8 + 3 + 4 + 2  # each slot once, base and uniform in two batches, and the two that failed


def test_settings_that_differ_in_numbers_share_a_compiled_program() -> None:
    before = rerouting._reroute_on_cpu._cache_size()
    with_rates = grid_presets(
        BASE,
        {
            "descent.learning_rate": (0.1, 0.2, 0.3),
            "neighborhood.k": (3,),
            "neighborhood.kernel": ("matern", "polynomial"),
        },
    )
    batch = prepare_tuning(PORT, BANK, QUESTIONS, with_rates, METRIC)
    for number in range(len(with_rates)):
        batch.answer(str(number), np.arange(50))
    assert rerouting._reroute_on_cpu._cache_size() == before + 1


def test_each_setting_has_its_own_nearest_neighbors() -> None:
    batch = prepare_tuning(PORT, BANK, QUESTIONS, PRESETS, METRIC)
    for number, preset in enumerate(PRESETS):
        assert batch.neighbors.neighborhoods[str(number)].indices.shape == (60, preset.neighborhood.k)
    few, many = (batch.neighbors.neighborhoods[str(PRESETS.index(p))] for p in (PRESETS[0], PRESETS[2]))
    np.testing.assert_array_equal(few.indices, many.indices[:, :2])


def test_an_atlas_is_tuned_on_its_bank_and_a_bank_without_one_is_refused(tmp_path: Path) -> None:
    values = {
        "neighborhood.kernel": ("gaussian",),
        "atlas.k": (2, 6),
        "atlas.temperature": (0.02, 1e6),
        "atlas.proximal_weight": (0.0,),
    }
    presets = grid_presets(BASE, values, "atlas")
    assert len(presets) == 4
    with pytest.raises(R2T2Error, match="atlas"):
        prepare_tuning(PORT, BANK, QUESTIONS, presets, METRIC, method="atlas")

    bank = collect_bank(PORT, make_samples(40, seed=1, hinted=0.6), METRIC, keep_wrong=True)
    atlas = build_atlas(PORT.model, PORT.params, bank, tmp_path / "atlas", AtlasPlan(points=5, drawn=4, k=3, batch=40))
    batch = prepare_tuning(PORT, replace(bank, atlas=atlas), QUESTIONS, presets, METRIC, method="atlas")
    rounds = [HalvingRound(4, 0, 60)]
    with Run.open(tmp_path / "run", "tune", {}, tuning_plan([PORT.name], rounds)) as run:
        tuning = Tuning(run, {PORT.name: batch}, rounds)
        preset = tuned_preset("toy", presets, list(values), tuning, tuning.search(), "atlas")
    assert preset["strategy"] == "atlas"
    assert preset["settings"]["atlas"]["temperature"] == 0.02  # the other temperature gives all points the same weight
    chosen = Preset.from_mapping(preset["settings"])
    (result,) = evaluate(PORT, batch.neighbors.index.bank, QUESTIONS, {"atlas": strategy("atlas", chosen)}, METRIC)
    assert preset["evidence"]["accuracy"] == pytest.approx(result.right.mean(), abs=1e-6)


def test_after_the_time_limit_no_setting_is_started_and_the_measured_ones_are_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "threads_at_a_time", lambda: 1)
    measured: list[str] = []
    monkeypatch.setattr(Tuning, "_overdue", lambda self: len(measured) >= 4)
    answer = PreparedBatch.answer
    monkeypatch.setattr(
        PreparedBatch, "answer", lambda self, name, rows: measured.append(name) or answer(self, name, rows)
    )
    with open_run(tmp_path / "run") as run:
        rankings = tuning_of(run, minutes=1.0).search()
    assert [len(ranking) for ranking in rankings] == [4, 2]  # three of eight is two of four, rounded up


def test_a_search_without_a_measured_setting_is_an_error(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run, pytest.raises(R2T2Error, match="no setting was measured within 0 minutes"):
        tuning_of(run, minutes=0.0).search()


def test_the_cheapest_setting_within_a_point_of_the_best_is_chosen() -> None:
    def measured(number: int, share: float, evaluations: int) -> MeasuredSetting:
        return MeasuredSetting(number, np.arange(1000) < 1000 * share, evaluations)

    best, cheap, poor = measured(0, 0.9, 200), measured(1, 0.895, 100), measured(2, 0.85, 10)
    assert cheapest_good_setting([best, cheap, poor]) is cheap
    assert cheapest_good_setting([best, measured(3, 0.895, 200)]) is best


@pytest.mark.parametrize("split", ["test", "Test", "testA", "test2015"])
def test_test_questions_are_refused_by_split_and_by_sample(split: str) -> None:
    with pytest.raises(R2T2Error, match=f"must not be chosen on test questions, and these are of split '{split}'"):
        refuse_test(split, [])
    sample = make_samples(1, seed=0, hinted=0)[0]
    object.__setattr__(sample, "split", split)
    with pytest.raises(R2T2Error, match="must not be chosen on test questions"):
        refuse_test(None, [sample])
    refuse_test("validation", make_samples(2, seed=0, hinted=0))
