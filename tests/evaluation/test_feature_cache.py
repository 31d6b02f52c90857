"""Features computed on demand equal those in memory."""

import dataclasses
import pickle
from collections import Counter

import jax
import numpy as np
import pytest

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.costs.memory import host_memory
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation import feature_cache
from r2t2_jax.evaluation.batch import evaluate_batch
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.dry_run import predict_evaluation
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.feature_cache import BankArrays, CachedFeatures, with_samples
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import method_of
from r2t2_jax.metrics import get_metric
from r2t2_jax.routing import Routing
from tests.toy_port import ToyModel, make_samples, toy

SAMPLES = make_samples(60, seed=1, hinted=0.5)
PORT, METRIC = toy(), get_metric("exact_match")


@pytest.fixture(scope="module")
def bank():
    return collect_bank(PORT, SAMPLES, get_metric("exact_match"))


@pytest.fixture
def opened(bank, tmp_path):
    dataclasses.replace(bank, features=None, answers=None).save(tmp_path / "bank")
    return with_samples(ReferenceBank.open(tmp_path / "bank"), PORT, SAMPLES)


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_features_and_answers_belong_to_the_given_rows(bank, opened):
    for rows in ([3, 0, 3], list(range(40)), [39], [5, 41]):
        equal(opened.samples(np.array(rows)), bank.samples(np.array(rows)))


def test_a_part_of_a_bank_reads_its_own_rows(bank, opened):
    chosen = np.array([8, 2, 30])
    equal(opened.take(chosen).samples(np.array([2, 0])), bank.samples(np.array([30, 8])))


def test_a_cached_row_is_not_encoded_again(opened, monkeypatch):
    rows = np.arange(10)
    opened.samples(rows)
    monkeypatch.setattr(feature_cache, "encode_batch", lambda *args, **kwargs: 1 / 0)
    opened.samples(rows[::-1])
    with pytest.raises(ZeroDivisionError):
        opened.samples(np.array([10]))


def test_rows_beyond_the_cache_size_are_encoded_again(bank, opened, monkeypatch):
    monkeypatch.setattr(feature_cache, "CACHE_BYTES", 0)
    for _ in range(2):
        equal(opened.samples(np.array([1, 2])), bank.samples(np.array([1, 2])))


def test_another_model_and_a_missing_sample_are_refused(opened):
    bare = dataclasses.replace(opened, reader=None)
    with pytest.raises(R2T2Error, match="made with model 'toy-1', this is model 'toy-2'"):
        with_samples(bare, dataclasses.replace(PORT, fingerprint="toy-2"), SAMPLES)
    with pytest.raises(R2T2Error, match="references have no sample, first '1-"):
        with_samples(bare, PORT, SAMPLES[:5])


def test_a_changed_image_is_refused(opened):
    records = [{**record, "image_sha256": "0" * 64} for record in opened.records]
    changed = with_samples(dataclasses.replace(opened, reader=None, records=records), PORT, SAMPLES)
    with pytest.raises(R2T2Error, match="is not the one the bank was built with"):
        changed.samples(np.array([0]))


def test_the_cache_reports_its_hits_and_takes_a_share_of_the_hosts_memory(opened, monkeypatch):
    cached = opened.reader.cached
    assert cached.limit == max(feature_cache.CACHE_BYTES, host_memory() // 4)
    for rows in (np.arange(10), np.arange(5, 15), np.array([14, 14])):
        opened.samples(rows)
    assert (cached.read, cached.encoded) == (21, 15)
    assert str(cached).startswith("features of references: 21 read, 29 % of them from the cache (")
    monkeypatch.setattr(feature_cache, "host_memory", lambda: 1 << 40)
    assert with_samples(dataclasses.replace(opened, reader=None), PORT, SAMPLES).reader.cached.limit == 1 << 38


def test_copies_of_the_model_share_what_they_compute(opened, monkeypatch):
    opened.samples(np.arange(10))
    copy = opened.reader.to_device(PORT)
    monkeypatch.setattr(feature_cache, "encode_batch", lambda *args, **kwargs: 1 / 0)
    equal(copy(np.arange(10)), opened.samples(np.arange(10)))


# Strategies that read the same neighbors, beyond what the cache holds; and the number of references that they encode.
NAMES = {"base": 0, "kernel_regression": 0, "kernel_regression_alpha": 5, "ngd": 5}


@pytest.fixture(scope="module")
def counted():
    """A port that counts its losses, and settings with few of them."""
    calls = Counter()

    class CountingModel(ToyModel):
        def answer_loss(self, params, features, routing, answer):
            jax.debug.callback(lambda _: calls.update(["losses"]), answer)  # once per neighbor: the answers are batched
            return super().answer_loss(params, features, routing, answer)

    port = dataclasses.replace(PORT, model=CountingModel())
    return port, Preset.from_mapping({"descent.steps": 3, "line_search.evaluations": 4}), calls


def test_stored_features_go_to_workers_from_their_files(bank, tmp_path):
    bank.save(tmp_path / "bank")
    stored = ReferenceBank.open(tmp_path / "bank").with_stored_samples(bank.features, bank.answers)
    sent = BankArrays.of(stored)
    mapped = jax.tree.leaves((stored.reader.features, stored.reader.answers, stored.routing, stored.embeddings))
    arrays = jax.tree.leaves((sent.bank.features, sent.bank.answers, sent.bank.routing, sent.bank.embeddings))
    for array, file in zip(arrays, mapped, strict=True):
        assert np.shares_memory(array, file) and type(array) is np.ndarray  # a view: pickled without a copy
    buffers = []
    received = pickle.loads(pickle.dumps(sent, protocol=5, buffer_callback=buffers.append), buffers=buffers)
    assert sum(buffer.raw().nbytes for buffer in buffers) >= sum(array.nbytes for array in arrays)
    rows = np.array([3, 0, 3])
    jax.tree.map(np.testing.assert_array_equal, received.open(PORT).samples(rows), bank.samples(rows))


def test_an_evaluation_computes_what_the_cost_ledger_says(bank, opened, counted):
    port, preset, calls = counted
    bank = with_samples(dataclasses.replace(opened, reader=None), port, SAMPLES)
    evaluator = Evaluator.create(port, bank, {name: method_of(name, preset) for name in NAMES}, METRIC)
    sample = make_samples(1, seed=9, hinted=0.5)
    costs = predict_evaluation(evaluator, sample[0], 1).costs
    batch = evaluator.prepare_batch(encode_questions(port, sample))
    ledger = {"kernel_regression": 0, "kernel_regression_alpha": 4 * 5, "ngd": 3 * 5}
    for name, encoded in NAMES.items():
        cache = bank.reader.cached = CachedFeatures(0)
        calls.clear()
        (result,) = evaluate_batch(batch, [name])
        jax.effects_barrier()
        assert calls["losses"] == ledger.get(name, 0), name
        passes = 2 if name == "ngd" else 1  # a value and its gradient
        assert result.evaluations == costs[name].evaluations == (1 if name == "base" else 2 + passes * ledger[name])
        assert cache.encoded == costs[name].encodings == encoded, name
    encode = costs["kernel_regression_alpha"].flops - costs["kernel_regression"].flops
    assert encode >= 4 * 5 * count_flops(jax.make_jaxpr(port.model.answer_loss)(port.params, *_first(bank)))


def _first(bank):
    features, answers = jax.tree.map(lambda leaf: leaf[0], bank.samples(np.array([0])))
    return features, Routing(bank.routing[0]), answers


def test_the_strategies_of_a_batch_encode_its_neighbors_once(opened, counted):
    port, preset, _ = counted
    bank = with_samples(dataclasses.replace(opened, reader=None), port, SAMPLES)
    evaluator = Evaluator.create(port, bank, {name: method_of(name, preset) for name in NAMES}, METRIC)
    samples = make_samples(2, seed=9, hinted=0.5)
    batch = evaluator.prepare_batch(encode_questions(port, samples))
    cache = bank.reader.cached = CachedFeatures(0)  # nothing stays in the cache
    shared = evaluate_batch(batch, chunk_size=1)
    assert cache.read == cache.encoded == 5 + 5  # of two strategies that read the same five neighbors of each sample
    for result, name in zip(shared, NAMES, strict=True):
        (single,) = evaluate_batch(batch, [name], chunk_size=1)
        np.testing.assert_array_equal(result.weights, single.weights)
        assert result.predictions == single.predictions
