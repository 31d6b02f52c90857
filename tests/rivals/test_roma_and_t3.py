"""T3's Jensen-Shannon divergence and RoMA's loss, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.objectives import Neighborhood
from r2t2_jax.rivals.roma import RoMALoss
from r2t2_jax.rivals.t3 import JensenShannon, jensen_shannon
from r2t2_jax.routing import Routing
from tests.method.cases import ROUTING, one_case, own_answer, probabilities, value_of
from tests.toy import A


def test_jensen_shannon_of_known_distributions():
    p = np.array([[0.5, 0.5], [1 - 1e-30, 1e-30], [0.9, 0.1]])
    q = np.array([[0.5, 0.5], [1e-30, 1 - 1e-30], [0.5, 0.5]])
    m = (p[2] + q[2]) / 2
    last = ((p[2] * np.log(p[2] / m)).sum() + (q[2] * np.log(q[2] / m)).sum()) / 2
    np.testing.assert_allclose(jensen_shannon(jnp.log(p), jnp.log(q)), [0, np.log(2), last], atol=1e-6)


def test_jensen_shannon_compares_with_the_untouched_model():
    query, _ = case = one_case()
    answer = own_answer(query)
    (p, mask), (q, _) = probabilities(query.features, None, answer), probabilities(query.features, ROUTING, answer)
    m = (p + q) / 2
    each = ((p * np.log(p / m)).sum(axis=-1) + (q * np.log(q / m)).sum(axis=-1)) / 2
    np.testing.assert_allclose(value_of(JensenShannon(A), case), each[mask].mean(), rtol=1e-4)
    np.testing.assert_allclose(value_of(JensenShannon(A), case, Routing(query.routing)), 0, atol=1e-6)
    assert (JensenShannon(A).prepare_forwards, JensenShannon(A).forwards(None)) == (2, 1)


def test_roma_adds_the_weighted_distance_to_each_neighbor():
    _, references = case = one_case()
    weights = np.asarray(references.weights)
    apart = [np.square(np.asarray(ROUTING.values) - np.asarray(r)).sum() / 2 for r in references.routing]
    expected = value_of(Neighborhood(), case) + 0.7 * np.average(apart, weights=weights)
    np.testing.assert_allclose(value_of(RoMALoss(0.7), case), expected, rtol=1e-5)
    np.testing.assert_allclose(value_of(RoMALoss(0.0), case), value_of(Neighborhood(), case), rtol=1e-6)
    assert RoMALoss().forwards(references) == 5


def test_a_negative_proximal_weight_is_refused():
    with pytest.raises(R2T2Error, match=r"proximal weight -1\.0"):
        RoMALoss(-1.0)
