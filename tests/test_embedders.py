"""Embedders by name: from the upstream folder and a model directory, in batches, with long texts truncated."""

import logging

import numpy as np
import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import load_embedder
from tests.ports.common.embedder_folders import WRITERS

pytest.importorskip("safetensors")
TEXTS = ["what is it", "a", "is the red cube left of it?", "where", "how many are there: two or three?"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("embedders")
    return {name: write(root / name) for name, write in WRITERS.items()}


@pytest.mark.parametrize("name", WRITERS)
def test_a_converted_embedder_is_the_same(folders, name, tmp_path, capsys):
    direct = load_embedder(f"{name}:{folders[name]}")
    vectors = direct.embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert main(["convert", name, str(folders[name]), str(tmp_path / "model"), "--quiet"]) == 0
    assert f"Wrote {tmp_path / 'model'}: " in capsys.readouterr().out
    for source in (f"{name}:{tmp_path / 'model'}", str(tmp_path / "model")):
        converted = load_embedder(source)
        assert converted.fingerprint == direct.fingerprint
        np.testing.assert_array_equal(converted.embed(TEXTS), vectors)


@pytest.mark.parametrize("name", WRITERS)
def test_vectors_do_not_depend_on_the_batch(folders, name):
    embedder = load_embedder(f"{name}:{folders[name]}")
    vectors = embedder.embed(TEXTS)
    assert embedder.embed([]).shape == (0, vectors.shape[1])
    np.testing.assert_array_equal(embedder.embed(TEXTS[::-1])[::-1], vectors)
    np.testing.assert_array_equal(embedder.embed(TEXTS[2:3])[0], vectors[2])
    assert np.abs(vectors[0] - vectors[3]).max() > 1e-3


def test_fingerprints_differ_between_models(folders):
    prints = [load_embedder(f"{name}:{folder}").fingerprint for name, folder in folders.items()]
    assert [text.partition("@")[0] for text in prints] == ["minilm-l6", "stella", "gte-qwen2", "nv-embed"]
    assert all(len(text.partition("@")[2]) == 8 for text in prints)


def test_weights_are_used_in_their_own_dtype(tmp_path):
    embedder = load_embedder(f"gte_qwen2:{WRITERS['gte_qwen2'](tmp_path / 'gte', dtype='float16')}")
    assert {str(leaf.dtype) for leaf in _leaves(embedder.params)} == {"float16"}
    assert embedder.embed(["it"]).dtype == np.float32


def _leaves(params):
    import jax

    return jax.tree.leaves(params)


def test_long_texts_are_truncated_with_a_warning(folders, caplog):
    embedder = load_embedder(f"stella:{folders['stella']}")
    with caplog.at_level(logging.WARNING, "r2t2"):
        vectors = embedder.embed(["a" * 100, "a" * 101, "it"])
    assert "stella: 2 of 3 texts were too long and were truncated" in caplog.text
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_an_unknown_embedder_lists_the_known_ones():
    with pytest.raises(R2T2Error, match="unknown embedder 'mimilm'; known: gte_qwen2, minilm, nv_embed, stella"):
        load_embedder("mimilm:x")


@pytest.mark.parametrize("name", ["stella", "gte_qwen2", "nv_embed"])
def test_weights_must_be_given(name):
    with pytest.raises(R2T2Error, match=f"{name} needs its weights: {name}:PATH"):
        load_embedder(name)


def test_a_missing_folder_is_refused():
    with pytest.raises(R2T2Error, match="no folder nowhere, and it is no hub id"):
        load_embedder("minilm:nowhere")
