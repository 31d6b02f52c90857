"""Shipped weights are complete; damaged ones are refused with an explanation."""

import json
import shutil

import numpy as np
import pytest

from ports.pocket import params
from ports.pocket.modeling import abstract
from ports.pocket.params import FOLDER, read_weights, write_weights
from ports.pocket.port import load
from r2t2_jax.errors import R2T2Error


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(FOLDER, tmp_path / "weights")


def test_weights_fill_the_model_and_stay_small():
    port = load("narrow")
    assert port.fingerprint != load("balanced").fingerprint
    assert port.embedder.fingerprint == load("balanced").embedder.fingerprint
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 8_000_000
    assert "pocket" in port.presets


def test_a_flipped_bit_is_detected(copied):
    packed = bytearray((copied / "weights.npz").read_bytes())
    packed[len(packed) // 2] ^= 1
    (copied / "weights.npz").write_bytes(packed)
    with pytest.raises(R2T2Error, match="damaged"):
        read_weights(copied)


@pytest.mark.parametrize("name", ["model.json", "weights.npz", "presets.json"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(R2T2Error, match=name):
        read_weights(copied)


def test_a_truncated_description_is_refused(copied):
    text = (copied / "model.json").read_text()
    (copied / "model.json").write_text(text[: len(text) // 2])
    with pytest.raises(R2T2Error, match="cannot be read"):
        read_weights(copied)


@pytest.mark.parametrize("change", ["missing", "unknown", "misshaped"])
def test_arrays_must_fit_the_model(copied, change):
    weights = read_weights(copied)
    arrays = dict(weights.arrays)
    if change == "missing":
        del arrays["lm_head/kernel"]
    elif change == "unknown":
        arrays["tail/kernel"] = np.zeros(3)
    else:
        arrays["lm_head/kernel"] = np.zeros((2, 2))
    extra = {"embedding/mean": weights.embedding_mean, "embedding/spread": weights.embedding_spread}
    write_weights(copied, weights.config, weights.words, arrays | extra, embedding={"layer": 1})
    _, shapes = abstract(weights.config)
    with pytest.raises(R2T2Error, match=r"lm_head/kernel|tail/kernel"):
        read_weights(copied).fill(shapes, "narrow")


def test_an_unknown_gate_is_refused_with_the_known_ones():
    with pytest.raises(R2T2Error, match="pocket:narrow, pocket:balanced"):
        load("wide")


def test_the_vocabulary_on_disk_covers_the_questions():
    from ports.pocket.questions import vocabulary

    described = json.loads((FOLDER / "model.json").read_text())
    assert set(vocabulary()) <= set(described["words"])
    assert params.GATES == ("narrow", "balanced")


def test_the_measurements_of_training_meet_their_thresholds():
    measured = json.loads((FOLDER / "model.json").read_text())["measured"]
    accuracy, blind = measured["accuracy"], measured["blind"]
    assert accuracy["task_routing"]["all"] - accuracy["narrow"]["all"] >= 0.25
    assert accuracy["task_routing"]["all"] - accuracy["uniform"]["all"] >= 0.2  # r matters: uniform is not enough
    for family, scores in blind.items():
        assert accuracy["task_routing"][family] > max(scores.values()), family
    for name, report in measured["experts"].items():
        assert report["own"] > 0.95, name
