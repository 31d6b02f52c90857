"""Exact search: order, ties, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.index import ExactIndex
from tests.toy import unit_vectors


def test_nearest_are_those_of_a_full_sort():
    rng = np.random.default_rng(0)
    bank, query = unit_vectors(rng, 50), unit_vectors(rng, 1)[0]
    expected = np.argsort(np.linalg.norm(bank - query, axis=1), kind="stable")[:7]
    np.testing.assert_array_equal(ExactIndex.build(bank).nearest(jnp.asarray(query), 7), expected)


def test_ties_go_to_the_lowest_index():
    bank = np.tile(unit_vectors(np.random.default_rng(0), 3), (4, 1))  # every vector four times
    np.testing.assert_array_equal(ExactIndex.build(bank).nearest(jnp.asarray(bank[1]), 4), [1, 4, 7, 10])


@pytest.mark.parametrize(
    ("embeddings", "cause"),
    [
        (np.zeros((0, 4), np.float32), "empty"),
        (np.array([[1.0, 0.0], [np.nan, 1.0]]), "NaN or infinity, first in row 1"),
        (np.array([[1.0, 0.0], [3.0, 4.0]]), "row 1 has length 5"),
        (np.ones(4), r"must be \[rows, M\]"),
    ],
)
def test_bad_embeddings_are_refused(embeddings, cause):
    with pytest.raises(R2T2Error, match=cause):
        ExactIndex.build(embeddings)
