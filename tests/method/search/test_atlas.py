"""Searches on the loss atlas, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.contract import References
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.atlas import AtlasArgmin, AtlasSoftmin, AtlasTaylor
from r2t2_jax.routing import UpdateSpace
from tests.method.search.problems import ROUTER_WEIGHTS, find, problem

POINTS = jnp.repeat(jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3]])[:, None], 2, axis=1)
LOSSES = jnp.array([[0.9, 0.1, 0.5, 0.6], [0.7, 0.3, 0.5, 0.4]])
WEIGHTS = jnp.array([1.0, 3.0])
MEAN = np.array([0.75, 0.25, 0.5, 0.45])
SIMPLEX = UpdateSpace("simplex")


def case(losses=LOSSES, weights=WEIGHTS, slopes=None, support=None):
    references = References(None, weights=weights, points=POINTS, point_losses=losses, slopes=slopes)
    return problem(space=SIMPLEX, references=references, support=support)


def test_the_soft_minimum_is_the_formula():
    distance = ((np.asarray(POINTS) - np.asarray(ROUTER_WEIGHTS)) ** 2).sum(axis=2).mean(axis=1)
    costs = MEAN + 0.3 * distance
    shares = np.exp(-costs / 0.1) / np.exp(-costs / 0.1).sum()
    result = find(AtlasSoftmin(temperature=0.1, proximal_weight=0.3), case())
    np.testing.assert_allclose(result.path[-1], np.tensordot(shares, POINTS, 1), rtol=1e-5)
    np.testing.assert_allclose(result.path[0], ROUTER_WEIGHTS, rtol=1e-6)
    assert result.evaluations == 0


def test_at_low_temperature_it_is_the_best_point_and_a_large_proximal_weight_stays_near_the_router():
    best = find(AtlasSoftmin(temperature=1e-4, proximal_weight=0.0), case()).path[-1]
    np.testing.assert_allclose(best, POINTS[1], atol=1e-6)
    np.testing.assert_array_equal(find(AtlasSoftmin(proximal_weight=0.0, hard=True), case()).path[-1], POINTS[1])
    np.testing.assert_array_equal(find(AtlasSoftmin(proximal_weight=50.0, hard=True), case()).path[-1], POINTS[3])
    result = find(AtlasArgmin(), case())
    np.testing.assert_array_equal(result.path[-1], POINTS[1])
    assert result.path.shape == (1, 2, 3)
    assert AtlasArgmin.uses_router is False


def test_equal_losses_take_the_first_point():
    result = find(AtlasSoftmin(proximal_weight=0.0, hard=True), case(losses=jnp.full((2, 4), 0.5)))
    np.testing.assert_array_equal(result.path[-1], POINTS[0])


def test_a_small_predicted_gain_keeps_the_router():
    for least, kept in ((0.05, False), (0.9, True)):
        result = find(AtlasSoftmin(proximal_weight=0.0, min_gain=least), case())
        assert bool(result.info["kept_router"]) is kept
        assert np.allclose(result.path[-1], ROUTER_WEIGHTS) is kept


def test_points_are_brought_onto_the_support():
    support = jnp.array([[True, False, True], [True, True, True]])
    result = find(AtlasSoftmin(temperature=1e-4, proximal_weight=0.0), case(support=support))
    np.testing.assert_allclose(result.path[-1], [[0.5, 0, 0.5], [0, 1, 0]], atol=1e-6)  # only live experts have weight


def test_taylor_is_a_projected_step_of_the_mean_slope():
    slopes = jnp.stack([jnp.full((2, 3), 0.0).at[0, 2].set(0.4), jnp.full((2, 3), 0.0).at[1, 0].set(-0.08)])
    result = find(AtlasTaylor(proximal_weight=1.0), case(slopes=slopes))
    # mean slopes: 0.1 at [0, 2] and -0.06 at [1, 0]; two layers, so steps of -0.1 and +0.06, projected
    np.testing.assert_allclose(
        result.path[-1], ROUTER_WEIGHTS + jnp.array([[0.1 / 3, 0.1 / 3, -0.2 / 3], [0.04, -0.02, -0.02]]), atol=1e-6
    )


@pytest.mark.parametrize(
    ("search", "numbers", "cause"),
    [
        (AtlasSoftmin, {"temperature": 0.0}, "atlas temperature 0.0"),
        (AtlasSoftmin, {"proximal_weight": -1.0}, "atlas proximal weight -1.0"),
        (AtlasTaylor, {"proximal_weight": 0.0}, "atlas_taylor proximal weight 0.0"),
    ],
)
def test_bad_numbers_are_refused(search, numbers, cause):
    with pytest.raises(R2T2Error, match=cause):
        search(**numbers)
