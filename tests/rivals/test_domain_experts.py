"""Boosts and masks by the references near a question, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.methods import METHODS, preset_of, strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.rivals.domain_experts import MASKED, ExpertBoost, ExpertMask
from r2t2_jax.routing import UpdateSpace
from tests.method.search.problems import find, neighborhood, problem
from tests.toy_port import make_samples, toy

# Two neighbors, of which the first has three quarters of the weight, in a bank of three references.
BANK = np.array([
    [[0.8, 0.2, 0.0], [0.1, 0.2, 0.7]],
    [[0.4, 0.6, 0.0], [0.5, 0.2, 0.3]],
    [[0.0, 0.1, 0.9], [0.6, 0.2, 0.2]],
])  # fmt: skip
WEIGHTS = np.array([0.6, 0.2])
DIFFERENCE = 0.75 * BANK[0] + 0.25 * BANK[1] - BANK.mean(axis=0)  # [[0.3, 0, -0.3], [-0.2, 0, 0.2]]


def references(weights=WEIGHTS):
    near = neighborhood(BANK[:2], weights)
    return near.__class__(jnp.asarray(BANK), routing=near.routing, weights=near.weights)


def test_experts_are_boosted_in_proportion_to_their_difference():
    np.testing.assert_allclose(DIFFERENCE, [[0.3, 0, -0.3], [-0.2, 0, 0.2]], atol=1e-12)
    result = find(ExpertBoost(2.0), problem(space=UpdateSpace("shift"), references=references()))
    np.testing.assert_allclose(result.path, [[[2, 0, 0], [0, 0, 4 / 3]]], rtol=1e-4, atol=1e-4)
    assert result.evaluations == 0


def test_experts_that_the_neighbors_use_less_are_masked():
    near = references()
    for count in (1, 2):
        result = find(ExpertMask(count), problem(space=UpdateSpace("shift"), references=near))
        first, third = np.asarray(result.path[0])[:, [0, 2]].T
        assert (first.tolist(), third.tolist()) == ([0, np.float32(MASKED)], [np.float32(MASKED), 0])


def test_the_last_expert_of_a_sample_is_not_masked():
    support = jnp.asarray([[False, True, True], [True, False, False]])
    near = problem(space=UpdateSpace("shift"), references=references(), support=support)
    result = find(ExpertMask(3), near)
    np.testing.assert_array_equal(result.path[0][1], [0, 0, 0])
    assert result.path[0][0][0] == 0
    with pytest.raises(R2T2Error, match="expert_mask of 0 experts"):
        ExpertMask(0)


def test_both_take_one_evaluation_and_fit_the_weights_by_hand():
    port, metric = toy(), get_metric("exact_match")
    bank = collect_bank(port, make_samples(12, seed=0, hinted=1.0), metric)
    questions = encode_questions(port, make_samples(4, seed=1, hinted=0.5))
    settings = preset_of({"expert_boost.k": 3, "expert_mask.k": 3, "neighborhood.bandwidth": 1.0})
    methods = {name: strategy(name, settings) for name in ("expert_boost", "expert_mask")}
    assert set(methods) <= set(METHODS)
    router = np.asarray(questions.queries.routing)
    mean = np.asarray(bank.routing).mean(axis=0)
    boost, mask = evaluate(port, bank, questions, methods, metric)
    for result in (boost, mask):
        assert result.evaluations == 1
    for i, neighbors in enumerate(np.asarray(boost.neighbors)):
        kernel = np.asarray(boost.kernel_weights[i])[:, None, None]
        difference = (kernel * np.asarray(bank.routing)[neighbors]).sum(axis=0) / kernel.sum() - mean
        positive = np.maximum(difference, 0)
        boosted = router[i] * np.exp(positive / positive.max())
        np.testing.assert_allclose(boost.weights[i], boosted / boosted.sum(axis=-1, keepdims=True), rtol=1e-3)
        kept = np.where(np.arange(3) == difference.argmin(axis=-1)[:, None], 0, router[i])
        np.testing.assert_allclose(mask.weights[i], kept / kept.sum(axis=-1, keepdims=True), rtol=1e-3, atol=1e-6)
