"""Line search: reaches the minimum, including both ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.kernel_regression import KernelRegression
from r2t2_jax.method.search.line_search import LineSearch
from tests.method.search.problems import ROUTER_WEIGHTS, find, neighborhood, problem

MEAN = jnp.array([[0.6, 0.2, 0.2], [0.2, 0.3, 0.5]])
REFERENCES = neighborhood(MEAN[None], [0.4])


def loss_of_alpha(shape):
    """A loss over r that is `shape` of alpha on the line between MEAN and ROUTER_WEIGHTS."""

    def loss(routing):
        alpha = (routing.values - MEAN)[0, 0] / (ROUTER_WEIGHTS - MEAN)[0, 0]
        return shape(alpha)

    return loss


@pytest.mark.parametrize("valley", [0.0, 0.137, 0.5, 0.81, 1.0])
def test_the_minimum_is_reached(valley):
    case = problem(loss_of_alpha(lambda alpha: (alpha - valley) ** 2), references=REFERENCES)
    result = find(LineSearch(16), case)
    # 14 inner points shrink the bracket 13 times; the last point lies inside it
    assert abs(result.info["alpha"] - valley) < 0.618**12
    np.testing.assert_allclose(
        result.path[-1], result.info["alpha"] * ROUTER_WEIGHTS + (1 - result.info["alpha"]) * MEAN, rtol=1e-5
    )


def test_the_best_evaluated_point_is_the_result_for_a_loss_with_two_minima():
    # a shallow valley in the middle, and the router's own weights better than anything there
    shape = loss_of_alpha(lambda alpha: jnp.where(alpha > 0.999, -1.0, (alpha - 0.5) ** 2))
    result = find(LineSearch(10), problem(shape, references=REFERENCES))
    assert result.info["alpha"] == 1
    np.testing.assert_allclose(result.path[-1], ROUTER_WEIGHTS, rtol=1e-6)


def test_a_flat_loss_keeps_the_router():
    result = find(LineSearch(6), problem(loss_of_alpha(jnp.zeros_like), references=REFERENCES))
    assert result.info["alpha"] == 1


def test_evaluations_are_counted():
    points = []

    def loss(routing):
        jax.debug.callback(lambda values: points.append(float(values[0, 0])), routing.values)
        return jnp.square(routing.values).sum()

    result = find(LineSearch(9), problem(loss, references=REFERENCES))
    jax.block_until_ready(result.losses)
    jax.effects_barrier()
    assert result.evaluations == len(points) == 9
    assert len(set(points)) == 9
    assert (jnp.diff(result.losses) <= 0).all()


def test_alpha_of_zero_is_the_kernel_mean():
    routing = jnp.stack([MEAN, ROUTER_WEIGHTS, MEAN**2])
    references = neighborhood(routing, [0.5, 0.2, 0.0])
    by_hand = (0.5 * MEAN + 0.2 * ROUTER_WEIGHTS) / 0.7
    result = find(KernelRegression(), problem(references=references))
    np.testing.assert_allclose(result.path, jnp.stack([ROUTER_WEIGHTS, by_hand]), rtol=1e-6)
    at_zero = find(
        LineSearch(4), problem(loss_of_alpha(lambda alpha: alpha), references=neighborhood(MEAN[None], [1.0]))
    )
    assert at_zero.info["alpha"] == 0
    np.testing.assert_allclose(at_zero.path[-1], MEAN, rtol=1e-6)


def test_too_few_evaluations_are_refused():
    with pytest.raises(R2T2Error, match="3 evaluations"):
        LineSearch(3)
