"""Batching by length, and pooling."""

import jax.numpy as jnp
import numpy as np
import pytest

from ports.common.text_embedder import ROWS, TOKENS, _batches, last_token, mean_pool, unit


def test_every_row_is_in_one_batch_of_its_own_length():
    lengths = np.random.default_rng(0).integers(1, 2501, 400).tolist()
    batches = list(_batches(lengths, 2500))
    assert sorted(row for rows, _ in batches for row in rows) == list(range(400))
    for rows, length in batches:
        assert len(rows) <= ROWS and (len(rows) == 1 or len(rows) * length <= TOKENS)
        for row in rows:  # the padded length depends only on the text
            assert length == min(2500, max(16, 1 << (lengths[row] - 1).bit_length()))


def test_pooling_by_hand():
    states = jnp.array([[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], jnp.bfloat16)
    mask = jnp.array([True, True, False])
    np.testing.assert_array_equal(mean_pool(states, mask), [2.0, 4.0])
    np.testing.assert_array_equal(last_token(states, mask), [3.0, 6.0])
    np.testing.assert_array_equal(last_token(states, mask[::-1]), [100.0, 100.0])
    assert mean_pool(states, mask).dtype == jnp.float32
    np.testing.assert_allclose(unit(jnp.array([3.0, 4.0])), [0.6, 0.8])
    np.testing.assert_array_equal(unit(jnp.zeros(2)), [0.0, 0.0])


@pytest.mark.parametrize("where", [0, 2])
def test_the_mean_over_one_token_is_that_token(where):
    states = jnp.arange(6.0).reshape(3, 2)
    mask = jnp.arange(3) == where
    np.testing.assert_array_equal(mean_pool(states, mask), last_token(states, mask))
