"""Selectors: their choice, the controls, independence of the batch, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval import neighbors as neighborhoods
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.neighbors import (
    EpsilonBall,
    NearestNeighbors,
    RandomNeighbors,
    ShuffledNeighbors,
    sample_keys,
    select,
)
from tests.toy import unit_vectors

RNG = np.random.default_rng(0)
BANK, QUERIES = unit_vectors(RNG, 30), unit_vectors(RNG, 8)
INDEX = ExactIndex.build(BANK)
KEYS = sample_keys(0, np.arange(8))
SELECTORS = [NearestNeighbors(4), EpsilonBall(1.0, 4), RandomNeighbors(4), ShuffledNeighbors(4)]


def true_distances(indices):
    return np.linalg.norm(BANK[np.asarray(indices)] - QUERIES[:, None], axis=-1)


def test_nearest_come_with_their_distances_and_dots():
    result = select(NearestNeighbors(4), INDEX, QUERIES, KEYS)
    order = np.argsort(np.linalg.norm(BANK[None] - QUERIES[:, None], axis=-1), axis=1)
    np.testing.assert_array_equal(result.indices, order[:, :4])
    np.testing.assert_allclose(result.distances, true_distances(result.indices), rtol=1e-5)
    np.testing.assert_allclose(result.dots, 1 - true_distances(result.indices) ** 2 / 2, atol=1e-6)
    assert result.mask.all()


def test_a_query_in_the_bank_is_at_distance_zero():
    assert select(NearestNeighbors(1), INDEX, BANK[:8], KEYS).distances.max() == 0


def test_a_ball_masks_references_outside():
    epsilon = 0.9
    result = select(EpsilonBall(epsilon, 6), INDEX, QUERIES, KEYS)
    inside = (np.linalg.norm(BANK[None] - QUERIES[:, None], axis=-1) <= epsilon).sum(axis=1)
    np.testing.assert_array_equal(result.mask.sum(axis=1), np.minimum(inside, 6))
    assert 0 < int(result.mask.sum()) < result.mask.size  # the case is not trivial
    assert not select(EpsilonBall(0.0, 6), INDEX, QUERIES, KEYS).mask.any()


def test_random_neighbors_are_different_references_at_their_own_distances():
    result = select(RandomNeighbors(20), INDEX, QUERIES, KEYS)
    assert all(len(set(row)) == 20 for row in np.asarray(result.indices).tolist())
    np.testing.assert_allclose(result.distances, true_distances(result.indices), rtol=1e-5)
    assert len({tuple(row) for row in np.asarray(result.indices).tolist()}) == 8  # each sample draws its own


def test_random_neighbors_are_uniform():
    keys = sample_keys(3, np.arange(2000))
    queries = np.repeat(QUERIES[:1], 2000, axis=0)
    counts = np.bincount(np.asarray(select(RandomNeighbors(3), INDEX, queries, keys).indices).ravel(), minlength=30)
    assert counts.min() > 140  # 200 expected, standard deviation 13
    assert counts.max() < 260


def test_shuffled_neighbors_keep_the_distances_and_change_the_samples():
    nearest, shuffled = (select(s(4), INDEX, QUERIES, KEYS) for s in (NearestNeighbors, ShuffledNeighbors))
    np.testing.assert_array_equal(shuffled.distances, nearest.distances)
    np.testing.assert_array_equal(shuffled.dots, nearest.dots)
    stand_in = dict(zip(np.ravel(nearest.indices).tolist(), np.ravel(shuffled.indices).tolist(), strict=True))
    assert all(reference != other for reference, other in stand_in.items())
    for before, after in zip(np.ravel(nearest.indices).tolist(), np.ravel(shuffled.indices).tolist(), strict=True):
        assert stand_in[before] == after  # one fixed exchange, not a draw for each sample
    assert len(set(stand_in.values())) == len(stand_in)
    other = select(ShuffledNeighbors(4, seed=1), INDEX, QUERIES, KEYS)
    assert (np.asarray(other.indices) != np.asarray(shuffled.indices)).any()


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_a_selection_does_not_depend_on_the_batch(selector):
    whole = select(selector, INDEX, QUERIES, KEYS)
    for rows in ([5], [7, 0, 5], [6, 5, 4, 3, 2, 1, 0]):
        rows = np.array(rows)
        part = select(selector, INDEX, QUERIES[rows], KEYS[rows])
        for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(a, np.asarray(b)[rows])


def test_a_new_epsilon_does_not_compile_again():
    from r2t2_jax.retrieval.neighbors import _select

    select(EpsilonBall(0.5, 4), INDEX, QUERIES, KEYS)
    before = _select._cache_size()
    select(EpsilonBall(0.7, 4), INDEX, QUERIES, KEYS)
    assert _select._cache_size() == before


@pytest.mark.parametrize(
    "selector", [NearestNeighbors, RandomNeighbors, ShuffledNeighbors, lambda k: EpsilonBall(1.0, k)]
)
def test_bad_k_is_refused(selector):
    with pytest.raises(R2T2Error, match="k=0"):
        selector(0)
    with pytest.raises(R2T2Error, match="k=31 neighbors from a bank of 30"):
        select(selector(31), INDEX, QUERIES, KEYS)


def test_half_precision_gives_the_neighbors_of_the_same_numbers_in_float32():
    dtype = jnp.bfloat16  # lengths differ from 1 by up to 0.4 %
    bank, queries = jnp.asarray(BANK, dtype), jnp.asarray(QUERIES, dtype)
    single = [jnp.asarray(half, jnp.float32) for half in (bank, queries)]
    expected = select(NearestNeighbors(6), ExactIndex.build(single[0]), single[1], KEYS)
    result = select(NearestNeighbors(6), ExactIndex.build(bank), queries, KEYS)
    for half, full in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert half.dtype == full.dtype
        np.testing.assert_array_equal(half, full)
    hits = ExactIndex.build(bank).search(np.asarray(queries), 6)
    np.testing.assert_array_equal(hits.indices, expected.indices)
    np.testing.assert_allclose(hits.distances, expected.distances, rtol=1e-6)


def test_texts_embedded_in_different_batches_are_at_distance_zero():
    noisy = BANK[:8] + 1e-7 * RNG.normal(size=(8, 6)).astype(np.float32)
    assert select(NearestNeighbors(1), INDEX, noisy, KEYS).distances.max() == 0
    halves = np.nextafter(BANK[:8].astype(np.float16), np.float16(2))  # one unit in the last place
    index = ExactIndex.build(BANK.astype(np.float16))
    assert select(NearestNeighbors(1), index, halves, KEYS).distances.max() == 0


def test_x64_mode_finds_the_same_neighbors():
    expected = select(NearestNeighbors(4), INDEX, QUERIES, KEYS)
    with jax.enable_x64(True):
        result = select(
            NearestNeighbors(4), ExactIndex.build(BANK.astype(np.float64)), QUERIES.astype(np.float64), KEYS
        )
        np.testing.assert_array_equal(result.indices, expected.indices)
        assert (result.distances.dtype, result.dots.dtype) == (jnp.float32, jnp.float32)


def test_negative_epsilon_is_refused():
    with pytest.raises(R2T2Error, match=r"epsilon -0\.1"):
        EpsilonBall(-0.1)


def test_bad_queries_are_refused():
    nan = QUERIES.copy()
    nan[3, 0] = np.nan
    with pytest.raises(R2T2Error, match="query embeddings holds NaN or infinity, first in row 3"):
        select(NearestNeighbors(4), INDEX, nan, KEYS)
    with pytest.raises(R2T2Error, match="size 4, the bank's 6"):
        select(NearestNeighbors(4), INDEX, jnp.eye(4), KEYS[:4])


def test_a_ball_without_a_cap_holds_every_reference_in_it(monkeypatch):
    apart = np.linalg.norm(BANK[None] - QUERIES[:, None], axis=-1)
    for epsilon in (0.9, 1.5):
        result = select(EpsilonBall(epsilon), INDEX, QUERIES, KEYS)
        for row, distances in enumerate(apart):
            inside = np.asarray(result.indices)[row][np.asarray(result.mask)[row]]
            assert set(inside.tolist()) == set(np.flatnonzero(distances <= epsilon).tolist())
    assert (apart <= 1.5).sum(axis=1).max() > 16  # more than the smallest padded size

    monkeypatch.setattr(neighborhoods, "BALL_BYTES", 10 * 100)
    with pytest.warns(UserWarning, match=r"balls of radius 1\.5 hold more than 10 references: the 10 nearest are used"):
        bounded = select(EpsilonBall(1.5), INDEX, QUERIES, KEYS, feature_bytes=100)
    capped = select(EpsilonBall(1.5, 10), INDEX, QUERIES, KEYS)
    for one, other in zip(jax.tree.leaves(bounded), jax.tree.leaves(capped), strict=True):
        np.testing.assert_array_equal(one, other)
    select(EpsilonBall(0.1), INDEX, QUERIES, KEYS, feature_bytes=100)  # nothing is cut: no warning
