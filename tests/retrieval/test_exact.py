"""Exact search: order, ties, blocks, devices, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax import retrieval
from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval import build_index, exact, host_search, load_index
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.host_search import HostScores, half_squares
from r2t2_jax.retrieval.protocol import METRICS, ball
from r2t2_jax.retrieval.scann import ScannIndex
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


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_vectors_too_large_for_float32_squares_are_refused(metric):
    bank = np.array([[1.0, 0.0], [1e20, 0.0]], np.float32)
    with pytest.raises(R2T2Error, match="too large for squared distances in float32: row 1 has length 1e"):
        ExactIndex.build(bank, metric)
    index = ExactIndex.build(bank / np.float32(1e2), metric)  # 1e18: squares of differences are below 3.4e38
    assert np.isfinite(index.search(-bank / np.float32(1e2), 2).distances).all()
    with pytest.raises(R2T2Error, match="query embeddings are too large"):
        index.search(bank, 1)


@pytest.mark.parametrize("metric", METRICS)
def test_numbers_beyond_float32_are_refused_as_not_finite_or_not_unit(metric):
    with pytest.raises(R2T2Error, match="NaN or infinity, first in row 0"):
        ExactIndex.build(np.array([[1e300, 0.0]]), metric)
    with pytest.raises(R2T2Error, match="row 0 has length 1e"):
        ExactIndex.build(np.array([[1e30, 0.0]], np.float32), "cosine")


def by_hand(metric, bank, queries, k):
    """Full float64 sort; equal distances by index."""
    bank, queries = bank.astype(np.float64), queries.astype(np.float64)
    apart = np.linalg.norm(bank[None] - queries[:, None], axis=-1)
    distance = -queries @ bank.T if metric == "dot" else apart
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distance, order, axis=1)


def vectors(metric, seed, n, m=9):
    result = np.random.default_rng(seed).normal(size=(n, m)).astype(np.float32)
    return result / np.linalg.norm(result, axis=1, keepdims=True) if metric == "cosine" else 2 * result


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks far smaller than the bank; jit keys on shapes only, so programs compiled with other blocks are dropped."""
    monkeypatch.setattr(exact, "ROWS", 16)
    monkeypatch.setattr(exact, "QUERIES", 4)
    exact._candidates.clear_cache()
    yield
    exact._candidates.clear_cache()


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_equals_a_full_sort(metric, small_blocks):
    bank, queries = vectors(metric, 0, 103), vectors(metric, 1, 11)
    result = ExactIndex.build(bank, metric).search(queries, 7)
    order, distance = by_hand(metric, bank, queries, 7)
    np.testing.assert_array_equal(result.indices, order)
    np.testing.assert_allclose(result.distances, distance, rtol=1e-6)
    assert result.mask.all()


@pytest.mark.parametrize("metric", METRICS)
def test_one_traced_query_equals_a_batch(metric):
    bank, queries = vectors(metric, 0, 103), vectors(metric, 1, 11)
    index = ExactIndex.build(bank, metric)
    one_by_one = [index.nearest(jnp.asarray(query), 7) for query in queries]
    np.testing.assert_array_equal(one_by_one, index.search(queries, 7).indices)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("metric", METRICS)
def test_splitting_the_rows_over_devices_changes_nothing(metric, devices, small_blocks):
    bank, queries = np.tile(vectors(metric, 0, 41), (3, 1))[:119], vectors(metric, 1, 6)  # ties, and rows left over
    index = ExactIndex.build(bank, metric)
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
    single, shared = index.search(queries, 9), index.search(queries, 9, mesh)
    np.testing.assert_array_equal(single.indices, shared.indices)
    np.testing.assert_array_equal(single.distances, shared.distances)


def test_a_result_does_not_depend_on_the_batch(small_blocks):
    bank, queries = np.tile(vectors("cosine", 0, 50), (2, 1)), vectors("cosine", 1, 10)
    index = ExactIndex.build(bank)
    whole = index.search(queries, 5)
    for rows in ([3], [9, 0], [8, 7, 6, 5, 4, 3]):
        part = index.search(queries[rows], 5)
        np.testing.assert_array_equal(part.indices, whole.indices[rows])
        np.testing.assert_array_equal(part.distances, whole.distances[rows])


@pytest.mark.parametrize("n", [5, 16, 40, 103, 700])
@pytest.mark.parametrize("distinct", [3, 1000])
@pytest.mark.parametrize("metric", METRICS)
def test_the_host_proposes_all_rows_that_may_be_nearest(metric, n, distinct):
    # Blocks with and without groups, rows left over behind the groups, and many equal scores.
    bank, queries = vectors(metric, 0, min(n, distinct)), vectors(metric, 1, 6)
    bank = bank[np.random.default_rng(2).integers(0, len(bank), n)]
    k, scores = min(5, n), HostScores(bank, half_squares(bank, 100), metric == "dot")
    pairs = scores.candidates(queries, k, block=96)
    exact_scores = queries.astype(np.float64) @ bank.T.astype(np.float64)
    if metric != "dot":
        exact_scores -= np.square(bank.astype(np.float64)).sum(axis=1) / 2
    last = -np.sort(-exact_scores, axis=1)[:, k - 1]
    assert (pairs.floor <= last).all()
    for b in np.flatnonzero(~pairs.crowded):
        rows = pairs.row[pairs.query == b]
        assert len(set(rows)) == len(rows) >= k
        assert set(np.flatnonzero(exact_scores[b] >= last[b])) <= set(rows)
        assert (exact_scores[b, rows] < last[b] - 1e-4).sum() < k  # the bound is close to the k-th best score
    assert pairs.crowded.any() == (distinct == 3 and n == 700)


@pytest.mark.parametrize("metric", METRICS)
def test_queries_with_many_equal_references_are_ranked_over_the_whole_bank(metric, small_blocks, monkeypatch):
    monkeypatch.setattr(host_search, "MANY", 2)
    bank, queries = np.tile(vectors(metric, 0, 7), (30, 1)), vectors(metric, 1, 5)
    order, distance = by_hand(metric, bank, queries, 3)
    result = ExactIndex.build(bank, metric).search(queries, 3)
    np.testing.assert_array_equal(result.indices, order)
    np.testing.assert_allclose(result.distances, distance, rtol=1e-6)
    assert result.mask.all()


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_lengths_of_any_size_change_no_order(metric, scale, small_blocks):
    # A single vector that is a million times longer than the others, whose scores are rounded more.
    bank, queries = scale * vectors(metric, 0, 103), scale * vectors(metric, 1, 6)
    bank[40] *= 1e6
    order, _ = by_hand(metric, bank.astype(np.float32), queries.astype(np.float32), 7)
    result = ExactIndex.build(bank.astype(np.float32), metric).search(queries.astype(np.float32), 7)
    np.testing.assert_array_equal(result.indices, order)


def test_an_approximate_index_is_built_for_many_queries_of_many_references(monkeypatch):
    monkeypatch.setattr(retrieval, "BREAK_EVEN", ((30, 100), (20, 200)))
    monkeypatch.setattr(retrieval, "find_spec", lambda name: name == "scann")
    monkeypatch.setattr(ScannIndex, "build", lambda *settings: "approximate")
    bank = vectors("cosine", 0, 20)
    assert build_index(bank, queries=200) == build_index(np.tile(bank, (2, 1)), queries=100) == "approximate"
    for index in (build_index(bank), build_index(bank, queries=199), build_index(bank[1:], queries=10**9)):
        assert isinstance(index, ExactIndex)


def test_many_equal_vectors_are_ordered_by_index(small_blocks):
    # Far more copies than spare candidates, in a bank whose size leaves odd rows at the end of a matrix product.
    copies = np.random.default_rng(0).integers(0, 5, 401)
    distinct = vectors("cosine", 2, 5, m=384)
    index, query = ExactIndex.build(distinct[copies]), distinct[3:4]
    expected = np.flatnonzero(copies == 3)[:30]
    np.testing.assert_array_equal(index.search(query, 30).indices[0], expected)
    np.testing.assert_array_equal(index.nearest(jnp.asarray(query[0]), 30), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_a_ball_has_the_references_within_epsilon(metric):
    bank, queries = vectors(metric, 0, 60), vectors(metric, 1, 5)
    _, distance = by_hand(metric, bank, queries, 60)
    epsilon = float(np.median(distance[:, 6]))
    result = ball(ExactIndex.build(bank, metric), queries, epsilon, 12)
    np.testing.assert_array_equal(result.mask.sum(axis=1), np.minimum((distance <= epsilon).sum(axis=1), 12))
    assert 0 < result.mask.sum() < result.mask.size


def test_k_can_be_the_number_of_references():
    bank = vectors("cosine", 0, 20)
    assert sorted(ExactIndex.build(bank).search(bank[:1], 20).indices[0].tolist()) == list(range(20))


@pytest.mark.parametrize(
    ("queries", "k", "cause"),
    [
        (np.eye(9, dtype=np.float32), 0, "k=0"),
        (np.eye(9, dtype=np.float32), 21, "k=21 neighbors from a bank of 20"),
        (np.eye(4, dtype=np.float32), 1, "size 4, the bank's 9"),
        (2 * np.eye(9, dtype=np.float32), 1, "must be unit vectors"),
    ],
)
def test_queries_that_do_not_fit_are_refused(queries, k, cause):
    with pytest.raises(R2T2Error, match=cause):
        ExactIndex.build(vectors("cosine", 0, 20)).search(queries, k)


def test_unknown_metrics_and_indices_are_refused():
    bank = vectors("cosine", 0, 20)
    with pytest.raises(R2T2Error, match="unknown metric 'manhattan'; choose one of cosine, dot, l2"):
        ExactIndex.build(bank, "manhattan")
    with pytest.raises(R2T2Error, match="unknown index 'annoy'"):
        build_index(bank, "annoy")


def test_a_saved_index_is_tied_to_its_embeddings(tmp_path):
    bank = vectors("l2", 0, 20)
    build_index(bank, "auto", "l2").save(tmp_path)
    loaded = load_index(tmp_path, bank)
    assert isinstance(loaded, ExactIndex) and loaded.metric == "l2"
    with pytest.raises(R2T2Error, match="was built for other embeddings"):
        load_index(tmp_path, bank + 1)
    with pytest.raises(R2T2Error, match=r"has no index\.json"):
        load_index(tmp_path / "none", bank)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(R2T2Error, match=r"index\.json is damaged"):
        load_index(tmp_path, bank)
