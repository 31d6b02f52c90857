"""Jitted entry points besides re-routing export to every platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.bank.reference_bank import kernel_weights
from r2t2_jax.method.kernels import Gaussian, Linear, Matern, Polynomial
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.neighbors import (
    EpsilonBall,
    NearestNeighbors,
    RandomNeighbors,
    ShuffledNeighbors,
    _select,
    sample_keys,
)
from tests.toy import unit_vectors

PLATFORMS = ("tpu", "cuda", "cpu")


@pytest.mark.parametrize(
    "selector", [NearestNeighbors(), EpsilonBall(1.0), RandomNeighbors(), ShuffledNeighbors()], ids=str
)
def test_selection(selector):
    vectors = unit_vectors(np.random.default_rng(0), 8)
    keys = sample_keys(0, np.arange(8))
    exported = jax.export.export(_select, platforms=PLATFORMS)(selector, ExactIndex.build(vectors), vectors, keys)
    assert exported.platforms == PLATFORMS


@pytest.mark.parametrize("kernel", [Gaussian(), Matern(), Polynomial(), Linear()], ids=str)
def test_kernel_weights(kernel):
    values = jnp.ones((2, 3))
    exported = jax.export.export(kernel_weights, platforms=PLATFORMS)(kernel, values, values, jnp.ones((2, 3), bool))
    assert exported.platforms == PLATFORMS
