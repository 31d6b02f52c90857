"""Features computed on demand equal those in memory."""

import dataclasses

import jax
import numpy as np
import pytest

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation import feature_cache
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.feature_cache import with_samples
from r2t2_jax.metrics import get_metric
from tests.toy_port import make_samples, toy

SAMPLES = make_samples(60, seed=1, hinted=0.5)
PORT = toy()


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
