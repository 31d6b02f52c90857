"""Mode finding: modes are fixed points, the cap and convergence are reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Gaussian
from r2t2_jax.method.search.mode_finding import ModeFinding, routing_neighborhood
from r2t2_jax.routing import group_softmax
from tests.method.search.problems import ROUTER_WEIGHTS, SPEC, find, neighborhood, problem


def bank_routing(count=40):
    logits = jax.random.normal(jax.random.key(1), (count, 2, 3))
    return group_softmax(SPEC, logits, jnp.ones((count, 2, 3), bool))


@pytest.mark.parametrize("kernel", [Gaussian(), Gaussian(0.2)], ids=str)
def test_a_mode_is_a_fixed_point(kernel):
    references = neighborhood(bank_routing(), jnp.ones(40))
    search = ModeFinding(kernel, k=15, tolerance=1e-6, max_iterations=500)
    first = find(search, problem(references=references))
    assert first.info["converged"]
    mode = first.path[-1]
    assert jnp.abs(mode - ROUTER_WEIGHTS).max() > 1e-2  # it went somewhere
    weights, near = routing_neighborhood(mode, references.bank_routing, kernel, 15)
    np.testing.assert_allclose(jnp.tensordot(weights, near, axes=1) / weights.sum(), mode, atol=1e-5)
    again = find(search, problem(references=references, own=mode))
    np.testing.assert_allclose(again.path[-1], mode, atol=1e-5)
    assert again.info["iterations"] < first.info["iterations"]


def test_it_moves_to_the_densest_spot():
    spot = jnp.array([[0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    noise = 0.001 * jax.random.normal(jax.random.key(2), (20, 2, 3))
    result = find(
        ModeFinding(Gaussian(), k=20, tolerance=1e-6),
        problem(references=neighborhood(spot[None] + noise, jnp.ones(20))),
    )
    np.testing.assert_allclose(result.path[-1], spot, atol=1e-3)


def test_a_step_keeps_alpha_of_the_old_point():
    spot = jnp.array([[0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    result = find(ModeFinding(k=1, alpha=0.7, max_iterations=1), problem(references=neighborhood(spot[None], [1.0])))
    np.testing.assert_allclose(result.path[-1], 0.7 * ROUTER_WEIGHTS + 0.3 * spot, rtol=1e-6)


def test_the_cap_is_reported():
    references = neighborhood(bank_routing(), jnp.ones(40))
    result = find(ModeFinding(tolerance=0.0, max_iterations=3, k=10), problem(references=references))
    assert result.info["iterations"] == 3
    assert not result.info["converged"]


def test_without_any_kernel_weight_it_stays_and_reports_the_fallback():
    far = jnp.full((5, 2, 3), 40.0)
    result = find(ModeFinding(Gaussian(0.1), k=5), problem(references=neighborhood(far, jnp.ones(5))))
    assert result.used_fallback
    np.testing.assert_array_equal(result.path[-1], ROUTER_WEIGHTS)


def test_means_are_brought_onto_the_support():
    support = jnp.array([[True, True, False], [True, True, True]])
    case = problem(references=neighborhood(bank_routing(), jnp.ones(40)), support=support)
    end = find(ModeFinding(k=10), case).path[-1]
    assert end[0, 2] == 0
    np.testing.assert_allclose(end.sum(axis=1), 1, atol=1e-5)


def test_bad_settings_are_refused():
    with pytest.raises(R2T2Error, match="alpha 1"):
        ModeFinding(alpha=1)
    with pytest.raises(R2T2Error, match="k=0"):
        ModeFinding(k=0)
