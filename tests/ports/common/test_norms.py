"""Norms against values computed by hand, and in low precision."""

import jax.numpy as jnp
import numpy as np

from ports.common.layers.linear import LayerNorm, RMSNorm


def test_rms_norm_by_hand():
    norm = RMSNorm(2, eps=0.5)
    norm.scale[...] = jnp.array([1.0, -2.0])
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    expected = np.array([[3.0, -8.0], [0.0, 0.0]]) / np.sqrt(12.5 + 0.5)
    np.testing.assert_allclose(norm(x), expected, rtol=1e-6)


def test_layer_norm_by_hand():
    norm = LayerNorm(3, eps=1.0)
    norm.scale[...], norm.bias[...] = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 0.0, 1.0])
    x = jnp.array([1.0, 2.0, 6.0])  # mean 3, variance 14 / 3
    expected = np.array([-2.0, -2.0, 9.0]) / np.sqrt(14 / 3 + 1) + [0, 0, 1]
    np.testing.assert_allclose(norm(x), expected, rtol=1e-6)


def test_statistics_are_float32_in_float16():
    x = jnp.full((1, 4096), 300.0, jnp.float16)  # the sum of squares overflows float16
    x = x.at[0, ::2].multiply(-1)
    for norm in (RMSNorm(4096, 1e-5, "float16"), LayerNorm(4096, 1e-5, "float16")):
        y = norm(x)
        assert y.dtype == jnp.float16
        np.testing.assert_array_equal(np.abs(np.asarray(y)), 1.0)
