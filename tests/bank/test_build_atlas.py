"""Building a loss atlas: the table has the model's losses, points are chosen by leave-one-out, runs can be resumed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.bank import build_atlas as build_atlas_module
from r2t2_jax.bank.atlas import open_atlas
from r2t2_jax.bank.build_atlas import AtlasPlan, build_atlas, leave_one_out
from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.method.search import atlas_points
from r2t2_jax.method.search.atlas_points import bounded, mixed, points_mode, reference_mixtures, reference_shifts
from r2t2_jax.methods import method_of
from r2t2_jax.metrics import get_metric
from r2t2_jax.routing import Routing, RoutingSpec
from tests.bank.test_storage import described
from tests.toy import MODEL, toy_bank, toy_params, unit_vectors
from tests.toy_port import make_samples, toy

PLAN = AtlasPlan(points=5, drawn=3, choosing=20, k=3, batch=8)
PARAMS = toy_params()


def bank(count=30):
    """References with ids, some of them answered wrongly."""
    wrong = np.arange(count) % 4 != 0
    return dataclasses.replace(
        toy_bank(count), records=[{"id": f"r{i}"} for i in range(count)], correct=wrong, model_fingerprint="toy"
    )


def test_the_table_holds_the_models_losses_and_slopes(tmp_path):
    references = bank()
    atlas = build_atlas(MODEL, PARAMS, references, tmp_path / "atlas", PLAN)
    assert atlas.losses.shape == (30, 5)
    assert atlas.ids == tuple(f"r{i}" for i in range(30))

    def loss(r, i):
        features, answer = jax.tree.map(lambda leaf: jnp.asarray(leaf[i]), (references.features, references.answers))
        return bounded(MODEL.answer_loss(PARAMS, features, Routing(r), answer))

    for i in (0, 7, 29):
        expected = [loss(jnp.asarray(point), i) for point in atlas.points]
        np.testing.assert_allclose(atlas.rows(np.array([i]))[0], expected, atol=0.5 / 255 + 1e-5)
        np.testing.assert_allclose(atlas.slopes[i], jax.grad(loss)(jnp.asarray(references.routing[i]), i), atol=2e-3)
    np.testing.assert_array_equal(open_atlas(tmp_path / "atlas").losses, atlas.losses)
    assert [path.name for path in tmp_path.iterdir()] == ["atlas"]  # the run is removed


class Killed(BaseException):
    """An exception that no code catches, like SIGKILL."""


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupted_build_is_resumed_to_the_same_bytes(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(build_atlas_module, "threads_at_a_time", lambda: threads)
    build_atlas(MODEL, PARAMS, bank(), tmp_path / "whole", PLAN)
    whole, calls = build_atlas_module.losses_at, []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5:  # three batches choose points, so the second one that tabulates
            raise Killed
        return whole(*args, **kwargs)

    monkeypatch.setattr(build_atlas_module, "losses_at", dying)
    with pytest.raises(Killed):
        build_atlas(MODEL, PARAMS, bank(), tmp_path / "cut", PLAN)
    assert not (tmp_path / "cut").exists()
    before = len(calls)  # five, and those that were computed at the same time as the fifth
    build_atlas(MODEL, PARAMS, bank(), tmp_path / "cut", PLAN)
    # Of seven batches, four were saved; with two threads the fifth call may be that of the batch after the next.
    assert len(calls) - before == 3 if threads == 1 else len(calls) - before in (2, 3)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


def test_a_reference_has_no_weight_in_its_own_neighborhood():
    rng = np.random.default_rng(0)
    embeddings = unit_vectors(rng, 9)
    embeddings[1:5] = embeddings[0]  # five are equal: with k = 3, some are not among their own nearest four
    losses = np.eye(9, dtype=np.float32)
    neighborhood = leave_one_out(losses, embeddings, 3)
    assert (np.diag(neighborhood) == 0).all()
    np.testing.assert_allclose(neighborhood.sum(axis=1), 1, rtol=1e-5)
    assert ((neighborhood > 0).sum(axis=1) == 3).all()
    with pytest.raises(R2T2Error, match="9 references are too few for 9 neighbors"):
        leave_one_out(losses, embeddings, 9)


def test_too_few_references_are_refused_before_a_model_is_loaded(tmp_path, capsys):
    described().save(tmp_path / "bank")
    assert main(["bank", "atlas", str(tmp_path / "bank"), "--model", "no_module:port"]) == 2
    assert "12 references are too few for 20 neighbors each; use a smaller k" in capsys.readouterr().err


def test_nan_and_settings_below_one_are_refused(tmp_path):
    references = bank()
    spoiled = dict(PARAMS, head=PARAMS["head"] * jnp.nan)
    with pytest.raises(R2T2Error, match="reference 'r0'"):
        build_atlas(MODEL, spoiled, references, tmp_path / "atlas", PLAN)
    assert not (tmp_path / "atlas").exists()
    with pytest.raises(R2T2Error, match="points of an atlas must be at least 1, not 0"):
        AtlasPlan(points=0)


def test_more_points_than_candidates_give_all_candidates(tmp_path):
    atlas = build_atlas(MODEL, PARAMS, bank(), tmp_path / "atlas", dataclasses.replace(PLAN, points=500))
    assert len(atlas.points) == 4 + 1 + 6 + 3


def test_shifts_follow_the_routing_of_the_references():
    draw = np.random.default_rng(0)
    groups = np.repeat([[[0.7, 0.2, 0.1]], [[0.1, 0.2, 0.7]]], 10, axis=0) + 0.01 * draw.normal(size=(20, 1, 3))
    shifts = reference_shifts(groups, ["left"] * 10 + ["right"] * 10)
    assert not shifts[0].any()
    largest = np.abs(shifts[1:]).max(axis=(1, 2))
    np.testing.assert_allclose(np.sort(np.unique(largest.round(4))), [1, 3])
    boost = shifts[np.abs(shifts - np.array([[[1, 0, -1]]])).max(axis=(1, 2)).argmin()]
    np.testing.assert_allclose(boost, [[1, 0, -1]], atol=0.1)  # of `left`, or the first principal direction
    assert np.isfinite(reference_shifts(np.ones((2, 1, 3)) / 3, ["", ""])).all()  # all alike: only the untouched model


def test_with_many_experts_strategies_move_by_shifts_of_the_samples_own_logits(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas_points, "LARGE", 2)
    port, metric = toy(), get_metric("exact_match")
    references = collect_bank(port, make_samples(60, seed=0, hinted=0.5), metric, keep_wrong=True)
    atlas = build_atlas(port.model, port.params, references, tmp_path / "atlas", AtlasPlan(points=6, k=5, batch=20))
    assert atlas.mode == open_atlas(tmp_path / "atlas").mode == "shift"
    assert np.abs(atlas.points).max() > 1

    def loss(shift):
        features, answer = jax.tree.map(lambda leaf: jnp.asarray(leaf[3]), (references.features, references.answers))
        return bounded(port.model.answer_loss(port.params, features, Routing(shift, "shift"), answer))

    expected = [loss(jnp.asarray(point)) for point in atlas.points]
    np.testing.assert_allclose(atlas.rows(np.array([3]))[0], expected, atol=0.5 / 255 + 1e-5)
    references = dataclasses.replace(references, atlas=atlas)
    questions = encode_questions(port, make_samples(30, seed=1, hinted=0.0))
    chosen = {name: method_of(name) for name in ("base", "atlas", "best_fixed")}
    base, by_neighbors, fixed = evaluate(port, references, questions, chosen, metric)
    np.testing.assert_allclose(by_neighbors.weights.sum(axis=-1), 1, atol=1e-5)  # weights of the shifted gate
    assert np.mean(by_neighbors.scores) > max(np.mean(base.scores), np.mean(fixed.scores))
    with pytest.raises(R2T2Error, match="those of this bank are shifts"):
        evaluate(port, references, questions, {"atlas_top8": method_of("atlas_top8")}, metric)


def test_mixtures_move_a_samples_own_weights_toward_the_routing_of_the_references():
    spec = RoutingSpec(("a", "b", "c"))
    own = np.array([[0.6, 0.2, 0.0]], np.float32)  # of a gate that does not sum to one
    point = 0.25 * np.array([[0.0, 0.5, 0.5]], np.float32)
    np.testing.assert_allclose(mixed(spec, point, own), 0.75 * own + 0.25 * 0.8 * np.array([[0, 0.5, 0.5]]), rtol=1e-6)
    np.testing.assert_array_equal(mixed(spec, np.zeros_like(own), own), own)

    draw = np.random.default_rng(0)
    groups = np.repeat([[[0.7, 0.2, 0.1]], [[0.1, 0.2, 0.7]]], 10, axis=0) + 0.01 * draw.normal(size=(20, 1, 3))
    groups = groups / groups.sum(axis=-1, keepdims=True)
    points = reference_mixtures(spec, groups, ["left"] * 10 + ["right"] * 10)
    assert not points[0].any()
    assert (points >= 0).all()
    np.testing.assert_allclose(np.unique(points[1:].sum(axis=-1).round(4)), [0.25, 0.5])
    for share, mean in ((0.25, groups[:10].mean(axis=0)), (0.5, groups[10:].mean(axis=0)), (0.5, groups.mean(axis=0))):
        np.testing.assert_allclose(np.abs(points - share * mean).max(axis=(1, 2)).min(), 0, atol=1e-3)
    assert len(reference_mixtures(spec, np.ones((2, 1, 3)) / 3, ["", ""])) == 3  # all alike: own weights, two shares


def test_strategies_read_an_atlas_of_mixtures_with_the_samples_own_weights(tmp_path):
    port, metric = toy(), get_metric("exact_match")
    references = collect_bank(port, make_samples(60, seed=0, hinted=0.5), metric, keep_wrong=True)
    plan = AtlasPlan(points=6, k=5, batch=20, kind="mixtures")
    atlas = build_atlas(port.model, port.params, references, tmp_path / "atlas", plan)
    assert atlas.mode == open_atlas(tmp_path / "atlas").mode == "mixture"
    own = jnp.asarray(references.routing[3])

    def loss(weights):
        features, answer = jax.tree.map(lambda leaf: jnp.asarray(leaf[3]), (references.features, references.answers))
        return bounded(port.model.answer_loss(port.params, features, Routing(weights), answer))

    points = [(1 - point.sum(axis=-1, keepdims=True)) * own + point for point in jnp.asarray(atlas.points)]
    np.testing.assert_allclose(atlas.rows(np.array([3]))[0], [loss(point) for point in points], atol=0.5 / 255 + 1e-5)
    np.testing.assert_allclose(atlas.slopes[3], jax.grad(loss)(own), atol=2e-3)

    references = dataclasses.replace(references, atlas=atlas)
    questions = encode_questions(port, make_samples(30, seed=1, hinted=0.0))
    chosen = {name: method_of(name) for name in ("base", "atlas", "atlas_argmin", "best_fixed")}
    base, by_neighbors, best, fixed = evaluate(port, references, questions, chosen, metric)
    assert np.mean(by_neighbors.scores) > max(np.mean(base.scores), np.mean(fixed.scores))
    best_point = atlas.points[atlas.mean().argmin()]
    expected = (1 - best_point.sum(axis=-1, keepdims=True)) * np.asarray(questions.queries.routing) + best_point
    np.testing.assert_allclose(fixed.weights, expected, atol=1e-5)
    assert (fixed.evaluations, best.evaluations) == (2, 2)  # the router's pass and the answer
    with pytest.raises(R2T2Error, match="those of this bank are mixtures"):
        evaluate(port, references, questions, {"atlas_top8": method_of("atlas_top8")}, metric)


def test_the_kind_of_points_follows_the_number_of_experts_unless_it_is_given():
    few, many = (RoutingSpec(tuple(f"e{i}" for i in range(count))) for count in (16, 17))
    assert [points_mode(few), points_mode(many), points_mode(many, has_gate=False)] == ["replace", "shift", "replace"]
    assert [points_mode(few, "shifts"), points_mode(many, "mixtures", False)] == ["shift", "mixture"]
    with pytest.raises(R2T2Error, match="need a model with a gate"):
        points_mode(few, "shifts", has_gate=False)
    with pytest.raises(R2T2Error, match="no kind 'corners' of atlas points"):
        points_mode(few, "corners")
