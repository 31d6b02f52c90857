"""Descent: each step by hand, Adam against optax's own loop, spaces respected."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.gradient_descent import Cosine, Fixed, GradientDescent
from r2t2_jax.routing import UpdateSpace
from tests.method.search.problems import ROUTER_WEIGHTS, find, problem

GOAL = jnp.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])


def quadratic(routing):
    return jnp.square(routing.values - GOAL).sum()


def test_free_sgd_is_the_papers_step():
    result = find(GradientDescent(Cosine(0.2, 0.01), "sgd", 4), problem(quadratic))
    point, path, losses = np.asarray(ROUTER_WEIGHTS), [np.asarray(ROUTER_WEIGHTS)], []
    for t in range(4):
        rate = 0.01 + 0.19 * (1 + np.cos(np.pi * t / 4)) / 2
        losses.append(np.square(point - GOAL).sum())
        point = point - rate * 2 * (point - np.asarray(GOAL))
        path.append(point)
    np.testing.assert_allclose(result.path, path, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-5)
    assert result.evaluations == 8


def test_adam_is_optaxs():
    result = find(GradientDescent(Fixed(0.05), "adam", 5), problem(quadratic))
    adam, point = optax.adam(0.05), ROUTER_WEIGHTS
    state = adam.init(point)
    for _ in range(5):
        updates, state = adam.update(jax.grad(lambda values: jnp.square(values - GOAL).sum())(point), state)
        point = optax.apply_updates(point, updates)
    np.testing.assert_allclose(result.path[-1], point, rtol=1e-5)


@pytest.mark.parametrize("kind", ["simplex", "logit"])
def test_every_point_of_a_path_on_the_simplex_stays_there_and_reaches_the_goal(kind):
    case = problem(quadratic, UpdateSpace(kind))
    result = find(GradientDescent(Fixed(0.4 if kind == "simplex" else 3.0), "sgd", 60), case)
    weights = jax.vmap(case.routing)(result.path).values
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights[-1], GOAL, atol=2e-3)


def test_tied_layers_move_together():
    case = problem(quadratic, UpdateSpace("free", tied=True))
    result = find(GradientDescent(Fixed(0.2), "sgd", 40), case)
    assert result.path.shape == (41, 1, 3)
    np.testing.assert_allclose(case.routing(result.path[-1]).values, jnp.tile(GOAL.mean(axis=0), (2, 1)), atol=1e-4)


def test_experts_off_the_support_stay_at_zero():
    support = jnp.array([[True, False, True], [True, True, True]])
    for kind in ("free", "simplex", "logit"):
        case = problem(quadratic, UpdateSpace(kind), support=support)
        weights = jax.vmap(case.routing)(find(GradientDescent(Fixed(0.1), "adam", 5), case).path).values
        assert not weights[:, 0, 1].any()
        assert (weights[-1] != weights[0])[1].all()


def test_bad_settings_are_refused():
    with pytest.raises(R2T2Error, match="unknown optimizer 'lion'"):
        GradientDescent(optimizer="lion")
    with pytest.raises(R2T2Error, match="0 steps"):
        GradientDescent(steps=0)
