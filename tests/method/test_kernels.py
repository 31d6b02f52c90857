"""Kernels against their formulas, and their errors."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Gaussian, Linear, Matern, Polynomial, median_distance

DISTANCE = jnp.array([0.0, 0.5, 1.0, 1.5])
DOT = 1 - DISTANCE**2 / 2  # of unit vectors at these distances: 1, 0.875, 0.5, -0.125
EVERY = jnp.ones(4, bool)
KERNELS = [
    Gaussian(),
    Gaussian(0.3),
    Matern(0.5),
    Matern(1.5),
    Matern(2.5, 0.7),
    Polynomial(),
    Polynomial(3, 0.0),
    Linear(),
]


def matern_by_bessel(u: float, nu: float) -> float:
    """2^(1 - nu) / Gamma(nu) u^nu K_nu(u), with K_nu by its integral: the definition, not the closed forms."""
    from math import gamma

    t = np.linspace(0, 20, 20001)
    bessel = np.trapezoid(np.exp(-u * np.cosh(t)) * np.cosh(nu * t), t)
    return 2 ** (1 - nu) / gamma(nu) * u**nu * bessel


def test_gaussian_is_its_formula():
    weights = Gaussian(0.5)(DISTANCE, DOT, EVERY)
    np.testing.assert_allclose(weights, [1, np.exp(-0.5), np.exp(-2), np.exp(-4.5)], rtol=1e-6)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_matern_is_its_definition(nu):
    weights = Matern(nu, 0.8)(DISTANCE, DOT, EVERY)
    expected = [matern_by_bessel(float(np.sqrt(2 * nu) * d / 0.8), nu) for d in DISTANCE[1:]]
    np.testing.assert_allclose(weights, [1, *expected], rtol=1e-4)


def test_polynomial_and_linear_clip_negative_values():
    np.testing.assert_allclose(Linear()(DISTANCE, DOT, EVERY), [1, 0.875, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(Polynomial(2, 0.5)(DISTANCE, DOT, EVERY), [2.25, 1.375**2, 1, 0.375**2], rtol=1e-6)
    np.testing.assert_allclose(Polynomial(2, 0.0)(DISTANCE, DOT, EVERY)[3], 0)  # not (-0.125)^2


def test_without_a_bandwidth_it_is_the_median_of_the_positive_unpadded_distances():
    mask = jnp.array([True, True, True, False])
    np.testing.assert_allclose(
        Gaussian()(DISTANCE, DOT, mask), jnp.where(mask, Gaussian(0.75)(DISTANCE, DOT, EVERY), 0), rtol=1e-6
    )


@pytest.mark.parametrize("noise", [0.0, 1e-7, 3e-6])
def test_references_with_the_same_question_do_not_shrink_the_bandwidth(noise):
    distances = jnp.array([0, noise, 0.7 * noise, 0.1, 0.2])
    weights = np.asarray(Gaussian()(distances, 1 - distances**2 / 2, jnp.ones(5, bool)))
    ratios = np.array([0, 0, 0, 0.1, 0.2]) / 0.15  # the median of 0.1 and 0.2
    np.testing.assert_allclose(weights, np.exp(-(ratios**2) / 2), rtol=1e-6)
    np.testing.assert_allclose(weights / weights.sum(), [0.2374, 0.2374, 0.2374, 0.1901, 0.0976], atol=1e-4)


@pytest.mark.parametrize("kernel", [Gaussian(), Matern(0.5)], ids=str)
def test_rounding_noise_between_equal_texts_has_no_weight(kernel):
    distances = jnp.array([1e-7, 3e-7, 2e-7, 5e-7])
    np.testing.assert_array_equal(kernel(distances, jnp.ones(4), EVERY), np.ones(4))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_half_precision_distances_give_float32_weights(kernel, dtype):
    half, dots = DISTANCE.astype(dtype), DOT.astype(dtype)
    weights = kernel(half, dots, EVERY)
    assert weights.dtype == jnp.float32
    expected = kernel(half.astype(jnp.float32), dots.astype(jnp.float32), EVERY)
    np.testing.assert_array_equal(weights, expected)
    assert np.isfinite(kernel(jnp.zeros(4, dtype), dots, EVERY)).all()


@given(st.lists(st.floats(0, 2, width=32), min_size=1, max_size=7), st.integers(0, 3))
def test_median_is_numpys(distances, padding):
    padded = jnp.array([*distances, *[0.1] * padding], jnp.float32)
    mask = jnp.arange(len(padded)) < len(distances)
    np.testing.assert_allclose(median_distance(padded, mask), np.median(np.float32(distances)), rtol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@given(st.lists(st.floats(0, 2, width=32), min_size=3, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_weights_are_finite_non_negative_and_zero_where_masked(kernel, distances, mask):
    distances, mask = jnp.array(distances, jnp.float32), jnp.array(mask)
    weights = np.asarray(kernel(distances, 1 - distances**2 / 2, mask))
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert not weights[~np.asarray(mask)].any()


@pytest.mark.parametrize("kernel", [Gaussian(), Matern(1.5)], ids=str)
def test_identical_embeddings_share_the_weight(kernel):
    np.testing.assert_array_equal(kernel(jnp.zeros(3), jnp.ones(3), jnp.ones(3, bool)), [1, 1, 1])


@pytest.mark.parametrize("bandwidth", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kernel", [Gaussian, lambda h: Matern(1.5, h)])
def test_bad_bandwidth_is_refused(kernel, bandwidth):
    with pytest.raises(R2T2Error, match="bandwidth"):
        kernel(bandwidth)


def test_bad_smoothness_and_degree_are_refused():
    with pytest.raises(R2T2Error, match="nu=1"):
        Matern(1)
    with pytest.raises(R2T2Error, match="degree 0"):
        Polynomial(0)
