"""Rivals on the toy port: augmentations are drawn per sample, memories are computed once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import Evaluator, evaluate
from r2t2_jax.methods import BASELINES, STRATEGIES, baseline, find_preset, strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.rivals.augmentations import encode_augmentations, shuffled, views
from r2t2_jax.rivals.knn_moe import hidden_keys
from r2t2_jax.rivals.table import RIVALS
from r2t2_jax.routing import Routing
from tests.toy_port import make_samples, toy

METRIC = get_metric("exact_match")
PORT = toy()
PRESET = find_preset("toy", PORT.presets).with_settings(
    {"augmentation.views": 3, "tpt.selected_views": 1, "cma_es.generations": 1, "generation.max_new_tokens": 2}
)
PICTURED = ("memo", "tpt", "deyo")


@pytest.fixture(scope="module")
def bank():
    return collect_bank(PORT, make_samples(60, seed=1, hinted=0.5), METRIC, keep_wrong=True)


@pytest.fixture(scope="module")
def questions():
    return encode_questions(PORT, make_samples(9, seed=2, hinted=0.3))


def test_every_rival_has_a_name_somewhere():
    assert set(RIVALS) <= set(STRATEGIES)
    assert len(set(RIVALS)) == len(RIVALS)
    assert [baseline(name, PRESET).name for name in BASELINES] == list(BASELINES)
    with pytest.raises(R2T2Error, match="unknown baseline 'oracle'; choose one of atlas_top8"):
        baseline("oracle")


QUICK = ("memo", "deyo", "knn_moe")  # one of each kind


@pytest.mark.parametrize("names", [QUICK, pytest.param(RIVALS, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_rivals_run_side_by_side(bank, questions, names):
    chosen = {name: strategy(name, PRESET) for name in (*names, "base")}
    chosen |= {name: baseline(name, PRESET) for name in ("neighbor_vote", "in_context")}
    outcomes = {one.name: one for one in evaluate(PORT, bank, questions, chosen, METRIC, batch_size=5)}
    assert list(outcomes) == list(chosen)
    for outcome in outcomes.values():
        assert outcome.weights.shape == (9, 2, 3)
        assert np.isfinite(outcome.weights).all()
        assert all(isinstance(prediction, str) for prediction in outcome.predictions)
    assert outcomes["neighbor_vote"].evaluations == 0


@pytest.mark.parametrize("name", [*PICTURED, "knn_moe", "warmup"])
def test_batch_company_and_order_change_nothing(bank, questions, name):
    one = strategy(name, PRESET) if name in STRATEGIES else dataclasses.replace(baseline(name, PRESET), batch=3)
    evaluation = Evaluator.create(PORT, bank, {name: one}, METRIC, seed=4).prepare_batch(questions)
    whole = jax.tree.map(np.asarray, evaluation.answer(name, np.arange(9)))
    rows = np.array([7, 2, 5, 0, 8, 1, 3, 6, 4])
    mixed = jax.tree.map(np.asarray, evaluation.answer(name, rows))
    for values, expected in zip(jax.tree.leaves(mixed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(values, expected[rows])


def test_the_memory_is_the_oracles_and_found_by_what_the_gate_reads(bank, questions):
    evaluator = Evaluator.create(PORT, bank, {"knn_moe": strategy("knn_moe", PRESET)}, METRIC)
    evaluation = evaluator.prepare_batch(questions)
    correct = bank.only_correct()
    features, answers = correct.samples(np.arange(len(correct)))
    weights = evaluation.neighbors.index.memory.routing["knn_moe"]
    loss = jax.jit(jax.vmap(lambda f, r, a: -PORT.model._logprobs(PORT.params, f, r)[a]))
    own = loss(jax.tree.map(jnp.asarray, features), None, jnp.asarray(answers))
    kept = loss(jax.tree.map(jnp.asarray, features), Routing(jnp.asarray(weights)), jnp.asarray(answers))
    assert float(kept.mean()) < float(own.mean())
    near = np.asarray(evaluation.neighbors.neighborhoods["knn_moe"].indices)
    similarity = hidden_keys(PORT, questions.queries.features) @ hidden_keys(PORT, features).T
    np.testing.assert_allclose(np.take_along_axis(similarity, near, axis=1), -np.sort(-similarity)[:, :5], rtol=1e-6)
    result = evaluation.answer("knn_moe", np.arange(9))
    expected = weights[near].mean(axis=1)  # all five have the similarity 1, so the router has no say
    sure = similarity[np.arange(9)[:, None], near].min(axis=1) > 0.999
    assert sure.any()
    np.testing.assert_allclose(np.asarray(result["weights"])[sure], expected[sure], atol=1e-5)


def test_a_model_that_hides_what_its_gate_reads_is_refused(bank, questions):
    bare = dataclasses.make_dataclass("Bare", [], bases=(), frozen=True)()
    with pytest.raises(R2T2Error, match="toy has no `gate_input`"):
        hidden_keys(dataclasses.replace(PORT, model=bare), questions.queries.features)


def pieces(image):
    return sorted(image[i : i + 12, j : j + 10].tobytes() for i in range(0, 48, 12) for j in range(0, 40, 10))


def picture():
    return np.random.default_rng(0).integers(0, 256, (50, 41, 3), np.uint8)


def test_views_are_near_the_image_and_begin_with_it():
    image = np.full((50, 40, 3), 100, np.uint8)
    image[20:30, 15:25] = 200
    drawn = views(image, 30, np.random.default_rng(1))
    assert len(drawn) == 30
    np.testing.assert_array_equal(drawn[0], image)
    for one in drawn[1:]:
        assert (one.shape, one.dtype) == (image.shape, np.uint8)
        inside = one.astype(float).mean(axis=-1)
        rows, columns = np.nonzero(inside > (inside.min() + inside.max()) / 2 - 10)
        assert abs(rows.mean() - 24.5) <= 2.5  # the square moved by two pixels at most
        assert abs(columns.mean() - 19.5) <= 1.5
    assert len({one.tobytes() for one in drawn}) == 30


def test_shuffling_moves_patches_and_loses_nothing():
    image = picture()
    broken = shuffled(image, np.random.default_rng(1))
    assert not np.array_equal(broken, image)
    np.testing.assert_array_equal(broken[48:], image[48:])  # two rows and a column that do not divide by four
    np.testing.assert_array_equal(broken[:, 40:], image[:, 40:])
    assert pieces(broken) == pieces(image)
    np.testing.assert_array_equal(shuffled(image[:3], np.random.default_rng(1)), image[:3])  # nothing to cut


def test_pictures_are_drawn_by_seed_and_place_alone():
    samples = make_samples(3, seed=5, hinted=1.0)
    whole = encode_augmentations(PORT, samples, np.arange(3), "views", 2, seed=7)
    last = encode_augmentations(PORT, samples[2:], np.array([2]), "views", 2, seed=7)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:], b), whole, last)
    plain = encode_questions(PORT, samples).queries.features
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, 0], b), whole, plain)
