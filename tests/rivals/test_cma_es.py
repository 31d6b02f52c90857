"""CMA-ES: its constants, a generation against another implementation, and that it reaches a minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.random_search import RandomSearch
from r2t2_jax.rivals.cma_es import CmaEs, CmaState, next_state, rates
from r2t2_jax.routing import UpdateSpace
from tests.method.search.problems import ROUTER_WEIGHTS, find, problem

GOAL = jnp.array([[0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])


def loss(routing):
    return jnp.square(routing.values - GOAL).sum()


def test_constants_are_those_of_the_tutorial():
    """Ten coordinates and ten candidates, worked out by hand from its table 1."""
    result = rates(10, 10)
    np.testing.assert_allclose(result.weights, [0.45627265, 0.27075308, 0.16223111, 0.08523355, 0.02550961], rtol=1e-6)
    np.testing.assert_allclose(result.mu_eff, 3.16729984, rtol=1e-6)
    np.testing.assert_allclose(result.c_sigma, 5.16729984 / 18.16729984, rtol=1e-6)
    np.testing.assert_allclose(result.damping, 1 + result.c_sigma, rtol=1e-6)
    np.testing.assert_allclose(result.c_1, 2 / (11.3**2 + 3.16729984), rtol=1e-6)
    np.testing.assert_allclose(result.length, 3.0847, atol=2e-4)  # sqrt(10) (1 - 1/40 + 1/2100)


def one_generation(mean, sigma, C, ps, pc, y, values, g, n):
    """Hansen 2016, equations 41 to 47, in plain numpy with a Cholesky-free square root."""
    c = rates(n, len(y))
    order = sorted(range(len(y)), key=lambda i: values[i])[: len(c.weights)]
    yw = sum(w * y[i] for w, i in zip(c.weights, order, strict=True))
    d, B = np.linalg.eigh(C)
    ps = (1 - c.c_sigma) * ps + np.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * (B @ np.diag(d**-0.5) @ B.T @ yw)
    h = np.linalg.norm(ps) / np.sqrt(1 - (1 - c.c_sigma) ** (2 * (g + 1))) < (1.4 + 2 / (n + 1)) * c.length
    pc = (1 - c.shape_path) * pc + h * np.sqrt(c.shape_path * (2 - c.shape_path) * c.mu_eff) * yw
    delta = (1 - h) * c.shape_path * (2 - c.shape_path)
    rank_mu = sum(w * np.outer(y[i], y[i]) for w, i in zip(c.weights, order, strict=True))
    C = (1 + c.c_1 * delta - c.c_1 - c.c_mu) * C + c.c_1 * np.outer(pc, pc) + c.c_mu * rank_mu
    mean = mean + sigma * yw
    sigma = sigma * np.exp(c.c_sigma / c.damping * (np.linalg.norm(ps) / c.length - 1))
    return mean, sigma, C, ps, pc


@pytest.mark.parametrize("scale", [1.0, 4.0])  # of the evolution path: with and without its stall
def test_a_generation_is_the_tutorials(scale):
    n, rng = 6, np.random.default_rng(0)
    root = rng.normal(size=(n, n))
    state = (rng.normal(size=n), 0.7, root @ root.T + np.eye(n), scale * rng.normal(size=n), rng.normal(size=n))
    y, values = rng.normal(size=(9, n)), rng.normal(size=9)
    with jax.enable_x64(True):
        cloud = CmaState(*(jnp.asarray(part) for part in (state[0], state[1], state[2], state[3], state[4])))
        result = next_state(cloud, jnp.asarray(y), jnp.asarray(values), jnp.asarray(3), rates(n, 9))
        for part, expected in zip(result, one_generation(*state, y, values, 3, n), strict=True):
            np.testing.assert_allclose(part, expected, rtol=1e-9)


def test_it_reaches_a_minimum_that_random_search_misses():
    space = UpdateSpace("logit")
    result = find(CmaEs(1.0, 80), problem(loss, space))
    assert result.evaluations == 1 + 80 * 9  # six coordinates: nine candidates
    blind = find(RandomSearch(1 + 80 * 9), problem(loss, space))
    assert result.losses[-1] < 1e-5 < blind.losses[-1]
    assert (np.diff(result.losses) <= 0).all()
    np.testing.assert_allclose(result.losses[0], loss(problem().routing(ROUTER_WEIGHTS)), rtol=1e-6)


def test_bad_settings_are_refused():
    with pytest.raises(R2T2Error, match="0 generations"):
        CmaEs(generations=0)
    with pytest.raises(R2T2Error, match=r"sigma 0\.0"):
        CmaEs(sigma=0.0)
