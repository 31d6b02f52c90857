"""Approximate search: recall, the same protocol as exact search, storage, refusals."""

import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval import build_index, load_index
from r2t2_jax.retrieval import scann as approximate
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.neighbors import (
    EpsilonBall,
    NearestNeighbors,
    RandomNeighbors,
    ShuffledNeighbors,
    sample_keys,
    select,
)
from r2t2_jax.retrieval.protocol import METRICS, ball
from r2t2_jax.retrieval.scann import ScannIndex, ScannParameters, rule

pytest.importorskip("scann")

RNG = np.random.default_rng(0)
CENTERS = RNG.normal(size=(40, 32))


def clustered(count):
    result = CENTERS[RNG.integers(0, 40, count)] + 0.6 * RNG.normal(size=(count, 32))
    return (result / np.linalg.norm(result, axis=1, keepdims=True)).astype(np.float32)


BANK, QUERIES = clustered(3000), clustered(50)


@pytest.fixture(scope="module")
def index():
    return ScannIndex.build(BANK)


@pytest.mark.parametrize("metric", METRICS)
def test_recall_is_nearly_one(metric):
    result = ScannIndex.build(BANK, metric).search(QUERIES, 5)
    exact = ExactIndex.build(BANK, metric).search(QUERIES, 5)
    shared = [len(set(a) & set(b)) for a, b in zip(result.indices.tolist(), exact.indices.tolist(), strict=True)]
    assert sum(shared) >= 0.99 * 250
    same = result.indices == exact.indices
    np.testing.assert_array_equal(result.distances[same], exact.distances[same])


def test_partitions_are_searched_too():
    index = ScannIndex.build(BANK, parameters=ScannParameters(30, 10, 100))
    assert index.recall >= 0.95
    exact = ExactIndex.build(BANK).search(QUERIES, 5)
    assert (index.search(QUERIES, 5).indices == exact.indices).mean() >= 0.95


def test_more_partitions_are_searched_until_the_recall_is_reached(monkeypatch):
    monkeypatch.setattr(approximate, "rule", lambda n: ScannParameters(30, 1, 100))
    index = ScannIndex.build(BANK)
    assert index.recall >= 0.99
    fewer = ScannParameters(30, index.parameters.searched // 2, 100)
    assert ScannIndex.build(BANK, parameters=fewer).recall < 0.99


def test_the_stored_recall_is_that_of_held_out_references():
    # One partition of thirty: most neighbors lie elsewhere. Counted here by hand.
    index = ScannIndex.build(BANK, parameters=ScannParameters(30, 1, 100))
    held_out = np.sort(np.random.default_rng(0).choice(3000, 200, replace=False))
    dots = BANK[held_out] @ BANK.T
    dots[np.arange(200), held_out] = -np.inf
    wanted = np.argsort(-dots, axis=1)[:, :5]
    result = index.search(BANK[held_out], 6).indices
    shares = [len(set(a) & set(b)) / 5 for a, b in zip(wanted.tolist(), result.tolist(), strict=True)]
    assert 0.2 < index.recall < 0.99
    np.testing.assert_allclose(index.recall, np.mean(shares), atol=1e-3)
    with pytest.raises(R2T2Error, match=r"of the 5 nearest of 200 held-out references, 99\.0% are required"):
        ScannIndex.build(BANK, min_recall=0.99, parameters=ScannParameters(30, 1, 100))


def test_equal_vectors_are_ordered_by_index():
    bank = np.concatenate([BANK, BANK[:4]])
    result = ScannIndex.build(bank).search(bank[:4], 2)
    np.testing.assert_array_equal(result.indices, [[i, 3000 + i] for i in range(4)])


def test_a_ball_has_the_references_within_epsilon(index):
    exact = ball(ExactIndex.build(BANK), QUERIES, 0.6, 8)
    assert 0 < exact.mask.sum() < exact.mask.size
    result = ball(index, QUERIES, 0.6, 8)
    np.testing.assert_array_equal(result.mask, exact.mask)


def test_a_saved_index_gives_the_same_results_in_any_folder(index, tmp_path):
    index.save(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    loaded = load_index(tmp_path / "there", BANK)
    assert (loaded.metric, loaded.parameters, loaded.recall) == ("cosine", index.parameters, index.recall)
    np.testing.assert_array_equal(loaded.search(QUERIES, 5).indices, index.search(QUERIES, 5).indices)
    with pytest.raises(R2T2Error, match="was built for other embeddings"):
        load_index(tmp_path / "there", BANK[::-1])
    (tmp_path / "there" / "scann_config.pb").unlink()
    with pytest.raises(R2T2Error, match="is damaged"):
        load_index(tmp_path / "there", BANK)


@pytest.mark.parametrize(
    "selector", [NearestNeighbors(4), EpsilonBall(0.6, 4), RandomNeighbors(4), ShuffledNeighbors(4)]
)
def test_selectors_choose_the_same_from_either_index(selector, index):
    keys = sample_keys(0, np.arange(50))
    exact, result = (select(selector, one, QUERIES, keys) for one in (ExactIndex.build(BANK), index))
    np.testing.assert_array_equal(result.indices, exact.indices)
    np.testing.assert_array_equal(result.distances, exact.distances)
    np.testing.assert_array_equal(result.mask, exact.mask)


@pytest.mark.parametrize("n", [1, 2, 7, 19_999, 20_000, 1_000_000])
def test_the_rule_gives_valid_parameters(n):
    parameters = rule(n)
    parameters.check()
    assert parameters.reordered <= max(n, 1)
    assert (parameters.leaves > 1) == (n >= 20_000)


def test_bad_parameters_are_refused():
    with pytest.raises(R2T2Error, match="31 of 30 partitions"):
        ScannIndex.build(BANK, parameters=ScannParameters(30, 31, 100))


def test_without_scann_the_error_names_the_remedy(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(approximate, "import_module", missing)
    with pytest.raises(R2T2Error, match=r"needs ScaNN, which is available for Linux on x86-64 .*--index exact"):
        build_index(BANK, "scann")
