"""The recipe: interrupted training ends where uninterrupted training does, and every stage fits the next."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ports.pocket.params import read_weights
from ports.pocket.questions import Question
from ports.pocket.training import optimize as optimizing
from ports.pocket.training.measure import blind_scores
from ports.pocket.training.optimize import Plan, Workbench, optimize
from ports.pocket.training.stages import leakage
from ports.pocket.training.train import Recipe, train

PLAN = Plan(steps=12, batch=4, rate=0.1, seed=3)


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

    saved, optimizing.save_leaves = optimizing.save_leaves, interrupt
    try:
        return optimize(loss, jnp.asarray(0.0), ((rows,), jnp.asarray(0.5)), PLAN, "fit", checkpoint)
    finally:
        optimizing.save_leaves = saved


def test_an_interrupted_stage_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizing, "KEEP", 5)
    whole = fit()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "half.npz", stop_at=2)
    resumed = fit(tmp_path / "half.npz")
    assert float(resumed) == float(whole) != 0.0


def test_a_finished_stage_is_not_made_again(tmp_path):
    bench = Workbench(tmp_path / "work", "one recipe").open()
    made = []

    def make(checkpoint):
        made.append(checkpoint)
        return {"a": jnp.arange(3)}

    for _ in range(2):
        assert bench.stage("first", make, {"a": jnp.zeros(3)})["a"].tolist() == [0, 1, 2]
    assert len(made) == 1


def test_another_recipe_is_refused(tmp_path):
    Workbench(tmp_path, "one recipe").open()
    with pytest.raises(SystemExit, match="another recipe"):
        Workbench(tmp_path, "a second recipe").open()


def test_blind_scores_by_hand():
    def ask(family, key, answer):
        return Question("", answer, family, (), key)

    seen = [ask("color", "of circle", "red")] * 3 + [ask("color", "of cross", "blue")] * 2
    asked = [ask("color", "of circle", "red"), ask("color", "of cross", "blue"), ask("color", "of moon", "red")]
    assert blind_scores(seen, asked) == {"color": {"majority": pytest.approx(2 / 3, abs=1e-4), "question_only": 1.0}}


def test_leakage_sees_what_is_there_and_not_what_is_not():
    rng = np.random.default_rng(0)
    color = rng.integers(0, 8, (400, 16))
    shape = rng.integers(0, 5, (400, 16))
    labels = {"color": color, "shape": shape, "base": np.zeros((400, 16), int)}
    found = leakage(np.eye(8, dtype=np.float32)[color], labels)
    assert found["color"] == 1.0
    assert found["shape"] < 0.3


@pytest.mark.slow
def test_the_whole_recipe_in_small(tmp_path):
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
