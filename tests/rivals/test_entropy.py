"""TENT, EATA, and Rewiring: by hand from the toy model's probabilities."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.rivals.eata import ReliableEntropy, divergence
from r2t2_jax.rivals.entropy import entropy
from r2t2_jax.rivals.rewiring import SelfCrossEntropy
from r2t2_jax.rivals.tent import Entropy
from r2t2_jax.routing import Routing
from tests.method.cases import ROUTING, mean_entropy, one_case, own_answer, probabilities, value_of
from tests.toy import A


def test_entropy_of_known_distributions():
    p = jnp.array([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 1e-30, 1e-30]])
    np.testing.assert_allclose(entropy(jnp.log(p)), [np.log(4), np.log(2)], rtol=1e-6)


def test_tent_averages_the_entropy_of_the_answers_tokens():
    query, _ = case = one_case()
    np.testing.assert_allclose(
        value_of(Entropy(A), case), mean_entropy(query.features, ROUTING, own_answer(query)), rtol=1e-5
    )
    assert (Entropy(A).prepare_forwards, Entropy(A).forwards(None)) == (1, 1)


def test_eata_weights_by_entropy_and_stays_near_the_router():
    query, _ = case = one_case()
    answer = own_answer(query)
    first, value = (mean_entropy(query.features, routing, answer) for routing in (None, ROUTING))
    own, weights = np.asarray(query.routing, np.float64), np.maximum(np.asarray(ROUTING.values, np.float64), 1e-6)
    pull = (weights * np.log(weights / own)).sum() / 2  # two layers
    margin = first + 0.3
    expected = np.exp(0.3) * value + 2.0 * pull
    np.testing.assert_allclose(value_of(ReliableEntropy(A, margin, 2.0), case), expected, rtol=1e-5)
    np.testing.assert_allclose(value_of(ReliableEntropy(A, first - 0.01, 2.0), case), 2.0 * pull, rtol=1e-5)
    assert (ReliableEntropy(A).prepare_forwards, ReliableEntropy(A).forwards(None)) == (2, 1)


def test_the_divergence_is_zero_at_the_router_and_grows_away_from_it():
    own = jnp.array([[0.5, 0.5], [0.9, 0.1]])
    moved = jnp.array([[0.5, 0.5], [0.5, 0.5]])
    assert divergence(own, own) == 0
    np.testing.assert_allclose(divergence(moved, own), (0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(5)) / 2, rtol=1e-6)
    assert np.isfinite(divergence(jnp.array([[1.2, -0.2], [0.0, 1.0]]), own))  # free weights leave the simplex


def test_the_models_own_answer_is_its_label():
    query, _ = case = one_case()
    answer = own_answer(query)
    p, mask = probabilities(query.features, ROUTING, answer)
    expected = -np.mean(np.log(p[np.arange(A), np.asarray(answer["tokens"])])[mask])
    np.testing.assert_allclose(value_of(SelfCrossEntropy(A), case), expected, rtol=1e-5)


def test_only_the_query_is_read():
    query, references = one_case()
    for objective in (Entropy(A), ReliableEntropy(A), SelfCrossEntropy(A)):
        bare = dataclasses.replace(query, answer=None, task_routing=None)
        assert value_of(objective, (bare, None)) == value_of(objective, (query, references))
        assert value_of(objective, (query, None), Routing(query.routing)) != value_of(objective, (query, None))


def test_a_negative_proximal_weight_is_refused():
    with pytest.raises(R2T2Error, match=r"proximal weight -1\.0"):
        ReliableEntropy(A, proximal_weight=-1.0)
