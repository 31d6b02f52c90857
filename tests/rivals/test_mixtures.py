"""T3's and kNN-MoE's mixtures with the neighbors' weights, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.rivals.knn_moe import KnnMoeInterpolation
from r2t2_jax.rivals.t3 import T3Interpolation
from tests.method.search.problems import ROUTER_WEIGHTS, find, neighborhood, problem

ROUTING = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0], [0.2, 0.2, 0.6]]])
WEIGHTS = np.array([0.6, 0.2])
MEAN = (0.6 * ROUTING[0] + 0.2 * ROUTING[1]) / 0.8


def part_way(share):
    return (1 - share) * np.asarray(ROUTER_WEIGHTS) + share * MEAN


def test_the_loss_determines_the_share_of_the_router():
    def loss(routing):  # defined at the neighbors' mean only
        return jnp.where(jnp.abs(routing.values - MEAN).max() < 1e-5, 0.4, jnp.nan)

    result = find(T3Interpolation(0.2, 0.7, 3.0), problem(loss, references=neighborhood(ROUTING, WEIGHTS)))
    alpha = 0.2 + 0.5 / (1 + np.exp(-3.0 * 0.4))
    np.testing.assert_allclose(result.path, [np.asarray(ROUTER_WEIGHTS), part_way(1 - alpha)], rtol=1e-5)
    np.testing.assert_allclose(result.info["share"], 1 - alpha, rtol=1e-5)
    assert result.evaluations == 1


@pytest.mark.parametrize(("weights", "share"), [(WEIGHTS, 0.4), (3 * WEIGHTS, 1.0), (0 * WEIGHTS, 0.0)])
def test_similar_neighbors_have_the_larger_share(weights, share):
    result = find(KnnMoeInterpolation(), problem(references=neighborhood(ROUTING, weights)))
    np.testing.assert_allclose(result.path[-1], part_way(share), rtol=1e-5, atol=1e-6)
    assert result.evaluations == 0


def test_shares_out_of_range_are_refused():
    with pytest.raises(R2T2Error, match=r"shares from 0\.7 to 0\.2"):
        T3Interpolation(0.7, 0.2)
