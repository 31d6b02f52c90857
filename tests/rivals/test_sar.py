"""SAR's descent: its steps by hand, its filter, and its recovery."""

import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.gradient_descent import Fixed
from r2t2_jax.rivals.sar import SharpnessAware
from tests.method.search.problems import ROUTER_WEIGHTS, find, problem

GOAL = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
CURVES = np.array([[1.0, 2.0, 3.0], [4.0, 1.0, 2.0]])  # so that looking uphill turns the slope


def bowl(routing):
    return (CURVES * jnp.square(routing.values - GOAL)).sum()


def slope(point):
    return 2 * CURVES * (point - GOAL)


def height(point):
    return (CURVES * np.square(point - GOAL)).sum()


def test_each_step_takes_the_gradient_at_the_ascent_point():
    result = find(SharpnessAware(Fixed(0.05), margin=100.0, radius=0.1, recovery=0.0, steps=3), problem(bowl))
    point, path, losses = np.asarray(ROUTER_WEIGHTS, np.float64), [np.asarray(ROUTER_WEIGHTS)], []
    for _ in range(3):
        losses.append(height(point))
        gradient = slope(point)
        point = point - 0.05 * slope(point + 0.1 * gradient / np.linalg.norm(gradient))
        path.append(point)
    np.testing.assert_allclose(result.path, path, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-5)
    assert result.evaluations == 12


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_samples_of_high_entropy_are_unchanged(optimizer):
    start = height(np.asarray(ROUTER_WEIGHTS))
    for margin in (start - 0.01, start + 0.01):  # unsure at r, or only above it
        result = find(
            SharpnessAware(Fixed(0.05), margin=margin, radius=0.1, recovery=0.0, optimizer=optimizer), problem(bowl)
        )
        np.testing.assert_array_equal(result.path, np.broadcast_to(np.asarray(ROUTER_WEIGHTS), (11, 2, 3)))


def test_the_start_is_restored_while_the_moving_average_is_low():
    settings = {"margin": 100.0, "radius": 0.1, "steps": 6}
    free = find(SharpnessAware(Fixed(0.05), recovery=0.0, **settings), problem(bowl))
    above, point = [], np.asarray(ROUTER_WEIGHTS, np.float64)
    for step in np.asarray(free.path, np.float64)[1:]:
        above.append(height(point + 0.1 * slope(point) / np.linalg.norm(slope(point))))
        point = step
    average = [above[0]]
    for value in above[1:]:
        average.append(0.9 * average[-1] + 0.1 * value)
    recovery = (average[2] + average[3]) / 2  # falls below after the fourth step
    result = find(SharpnessAware(Fixed(0.05), recovery=recovery, **settings), problem(bowl))
    np.testing.assert_allclose(result.path[:4], free.path[:4], rtol=1e-6)
    np.testing.assert_array_equal(result.path[4], ROUTER_WEIGHTS)


def test_bad_settings_are_refused():
    with pytest.raises(R2T2Error, match="unknown optimizer 'lion'"):
        SharpnessAware(optimizer="lion")
    with pytest.raises(R2T2Error, match="0 steps"):
        SharpnessAware(steps=0)
    with pytest.raises(R2T2Error, match=r"radius -0\.1"):
        SharpnessAware(radius=-0.1)
