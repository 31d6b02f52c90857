"""Numbers of active experts: every candidate by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from r2t2_jax.contract import Query
from r2t2_jax.rivals.active_experts import ActiveExperts
from r2t2_jax.routing import RoutingSpec
from tests.method.search.problems import ROUTER_WEIGHTS, find, problem


def prefer(expected):
    return lambda routing: jnp.abs(routing.values - expected).sum()


def test_candidates_are_the_largest_weights_renormalized():
    two = np.array([[0.0, 0.3, 0.5], [0.6, 0.3, 0.0]]) / np.array([[0.8], [0.9]])
    one = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    for active, weights in ((3, np.asarray(ROUTER_WEIGHTS)), (2, two), (1, one)):
        result = find(ActiveExperts(), problem(prefer(weights)))
        np.testing.assert_allclose(result.path[-1], weights, atol=1e-6)
        np.testing.assert_allclose(result.path[0], ROUTER_WEIGHTS, atol=1e-6)
        assert int(result.info["active"]) == active
        assert result.evaluations == 3


def test_groups_are_ranked_separately_and_keep_their_sums():
    spec = RoutingSpec(("a", "b", "c", "d", "e"), 1, ((0, 1, 2), (3, 4)))
    own = jnp.array([[0.5, 0.2, 0.3, 0.4, 0.6]])
    goal = np.array([[1.0, 0.0, 0.0, 0.0, 1.0]])
    case = problem(prefer(goal), own=own)
    case = dataclasses.replace(case, spec=spec, query=Query(None, own, jnp.ones((1, 5), bool)))
    result = find(ActiveExperts(), case)
    np.testing.assert_allclose(result.path[-1], goal, atol=1e-6)
    np.testing.assert_allclose(result.path[..., :3].sum(axis=-1), 1, atol=1e-6)
    assert int(result.info["active"]) == 1


def test_experts_off_the_support_are_never_active():
    support = jnp.array([[True, True, False], [True, True, True]])
    result = find(ActiveExperts(), problem(prefer(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])), support=support))
    np.testing.assert_allclose(result.path[-1], [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], atol=1e-6)
