"""The recipe: interrupted training gives the same result as uninterrupted training; all stages fit together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.pocket.params import read_weights
from ports.pocket.questions import Question
from ports.pocket.training import optimize as optimization
from ports.pocket.training.measure import blind_scores
from ports.pocket.training.optimize import StageFolder, TrainingStage, optimize
from ports.pocket.training.stages import leakage
from ports.pocket.training.train import Recipe, check_scores, train
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import load

PLAN = TrainingStage(steps=12, batch=4, rate=0.1, seed=3)


def fit(checkpoint=None, stop_at=None):
    rows = jnp.linspace(-1, 1, 50)
    calls = []

    def loss(weight, data, key, progress):
        (x,), bias = data
        return jnp.mean((weight * x + bias + 0.1 * jax.random.normal(key, x.shape) - 2 * x) ** 2)

    def interrupt(path, tree):
        saved(path, tree)
        calls.append(path)
        if len(calls) == stop_at:
            raise KeyboardInterrupt

    saved, optimization.save_leaves = optimization.save_leaves, interrupt
    try:
        return optimize(loss, jnp.asarray(0.0), ((rows,), jnp.asarray(0.5)), PLAN, "fit", checkpoint)
    finally:
        optimization.save_leaves = saved


def test_an_interrupted_stage_gives_the_result_of_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(optimization, "KEEP", 5)
    whole = fit()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "half.npz", stop_at=2)
    resumed = fit(tmp_path / "half.npz")
    assert float(resumed) == float(whole) != 0.0


def test_a_finished_stage_is_not_run_again(tmp_path):
    stages = StageFolder(tmp_path / "work", "one recipe").open()
    made = []

    def make(checkpoint):
        made.append(checkpoint)
        return {"a": jnp.arange(3)}

    for _ in range(2):
        assert stages.stage("first", make, {"a": jnp.zeros(3)})["a"].tolist() == [0, 1, 2]
    assert len(made) == 1


def test_another_recipe_is_refused(tmp_path):
    StageFolder(tmp_path, "one recipe").open()
    with pytest.raises(SystemExit, match="another recipe"):
        StageFolder(tmp_path, "a second recipe").open()


def test_blind_scores_by_hand():
    def question(family, key, answer):
        return Question("", answer, family, (), key)

    train = [question("color", "of circle", "red")] * 3 + [question("color", "of cross", "blue")] * 2
    test = [
        question("color", "of circle", "red"),
        question("color", "of cross", "blue"),
        question("color", "of moon", "red"),
    ]
    assert blind_scores(train, test) == {"color": {"majority": pytest.approx(2 / 3, abs=1e-4), "question_only": 1.0}}


def test_leakage_measures_only_information_in_the_features():
    rng = np.random.default_rng(0)
    color = rng.integers(0, 8, (400, 16))
    shape = rng.integers(0, 5, (400, 16))
    labels = {"color": color, "shape": shape, "base": np.zeros((400, 16), int)}
    scores = leakage(np.eye(8, dtype=np.float32)[color], labels)
    assert scores["color"] == 1.0
    assert scores["shape"] < 0.3


@pytest.mark.slow
def test_a_small_recipe_runs_all_stages(tmp_path):
    recipe = Recipe(
        work=tmp_path / "work",
        out=tmp_path / "weights",
        shorten=1000,
        vision_scenes=64,
        language_scenes=64,
        gate_scenes=64,
        questions_per_scene=2,
    )
    measured = train(recipe)
    assert set(measured["accuracy"]) == {"task_routing", "uniform", "narrow", "balanced"}
    (tmp_path / "weights" / "presets.json").write_text("{}")
    assert read_weights(tmp_path / "weights").config.experts[0] == "color"
    assert train(recipe)["accuracy"] == measured["accuracy"]  # from the finished stages


def test_mixers_with_too_large_scores_are_refused():
    port = load("pocket")
    net = nnx.merge(port.model.graph, port.params)
    check_scores(net)
    net.mixers[1].q_proj[...] = 3 * net.mixers[1].q_proj[...]
    with pytest.raises(R2T2Error, match=r"mixer 1 may reach 6\d, .* to 40"):
        check_scores(net)
