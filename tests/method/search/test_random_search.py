"""Random search: its draws, and that the best is the result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.problem import running_argmin
from r2t2_jax.method.search.random_search import RandomSearch, random_routing
from r2t2_jax.routing import UpdateSpace
from tests.method.search.problems import ROUTER_WEIGHTS, find, problem

KEY = jax.random.key(0)


def test_best_so_far():
    np.testing.assert_array_equal(running_argmin(jnp.array([3.0, jnp.nan, 1.0, 1.0, 2.0, 0.5])), [0, 0, 2, 2, 2, 5])


def test_more_candidates_reach_a_lower_loss():
    goal = jnp.array([[0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])

    def loss(routing):
        return jnp.square(routing.values - goal).sum()

    losses = [find(RandomSearch(n), problem(loss)).losses[-1] for n in (1, 8, 2000)]
    np.testing.assert_allclose(
        losses[0], loss(problem().routing(ROUTER_WEIGHTS)), rtol=1e-6
    )  # the router's own is the first
    assert losses[2] < losses[0] / 10
    assert losses[2] < losses[1] <= losses[0]


def test_draws_are_uniform_on_the_simplex():
    keys = jax.random.split(KEY, 20000)
    drawn = jax.vmap(lambda key: random_routing(problem(), key))(keys)
    np.testing.assert_allclose(drawn.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(drawn.mean(axis=0), 1 / 3, atol=0.01)
    np.testing.assert_allclose(drawn.var(axis=0), 1 / 18, atol=0.002)  # of Dirichlet(1, 1, 1)
    assert abs(np.corrcoef(drawn[:, 0, 0], drawn[:, 1, 0])[0, 1]) < 0.05  # layers drawn apart


def test_tied_draws_share_a_row():
    drawn = random_routing(problem(space=UpdateSpace("free", tied=True)), KEY)
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_no_candidates_are_refused():
    with pytest.raises(R2T2Error, match="0 candidates"):
        RandomSearch(0)
