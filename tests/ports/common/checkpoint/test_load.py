"""Model directories are checked before they are used."""

import contextlib
import json
import re

import jax
import numpy as np
import pytest

from ports.common.checkpoint.load import open_model_directory, restore
from r2t2_jax.errors import R2T2Error
from tests.ports.common.toy_model import CONVERTER, ToyConfig, toy_tensors, write_source


@pytest.fixture
def model(tmp_path):
    source = write_source(tmp_path / "source", toy_tensors(), "single")
    CONVERTER.convert(str(source), tmp_path / "model", progress=False)
    return tmp_path / "model"


def edit(model, **changes):
    file = model / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_whole_directory_opens(model):
    directory = open_model_directory(model, "toy")
    assert directory.config == {"layers": 3, "width": 4}
    assert len(directory.digest) == 64


def test_the_digest_follows_weights_and_tokenizer(tmp_path, model):
    again = write_source(tmp_path / "again", toy_tensors(), "single")
    (again / "tokenizer.json").write_text("{}")
    described = CONVERTER.convert(str(again), tmp_path / "other", progress=False)
    assert described["digest"] != open_model_directory(model, "toy").digest
    assert described["source"] == str(again)


def test_another_ports_model_is_refused(model):
    with pytest.raises(R2T2Error, match="holds a model of port 'toy', not 'mova'"):
        open_model_directory(model, "mova")


def test_a_folder_without_a_description_is_refused(tmp_path):
    with pytest.raises(R2T2Error, match=r"is no model directory .*make one with r2t2 convert"):
        open_model_directory(tmp_path, "toy")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 2}', '{"schema": 1}'])
def test_a_damaged_description_is_named(model, text):
    (model / "model.json").write_text(text)
    with pytest.raises(R2T2Error, match=r"model\.json is damaged"):
        open_model_directory(model, "toy")


@pytest.mark.parametrize("schema", [1, 3])
def test_another_schema_is_refused_with_the_command_that_converts_again(tmp_path, model, schema):
    edit(model, schema=schema)
    again = f"remove it and convert again: r2t2 convert toy {tmp_path / 'source'} {model}"
    with pytest.raises(R2T2Error, match=f"has schema {schema}, this version of r2t2-jax reads 2; {re.escape(again)}$"):
        open_model_directory(model, "toy")


def test_files_that_changed_are_all_named(model):
    weights = max((model / "checkpoint" / "state").rglob("d/*"), key=lambda file: file.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-1])
    (model / "checkpoint" / "commit_success.txt").unlink()
    tokenizer = model / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("b", "c"))
    with pytest.raises(R2T2Error) as caught:
        open_model_directory(model, "toy")
    for part in (weights.name, "commit_success.txt is not there", "tokenizer/tokenizer.json is not the file"):
        assert part in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of tasks that Orbax leaves behind
def test_no_flipped_bit_changes_a_weight_silently(model):
    abstract = CONVERTER.abstract_params(ToyConfig())
    for file in sorted((model / "checkpoint" / "state").rglob("d/*")):
        content = file.read_bytes()
        for place in range(0, len(content), 151):
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with contextlib.suppress(R2T2Error):  # otherwise the bit is in a file that reading does not need
                params = restore(open_model_directory(model, "toy"), abstract)
                np.testing.assert_array_equal(params["words"][...], toy_tensors()["wte.weight"].astype("f4"))
        file.write_bytes(content)


def test_damaged_parameters_are_named(model):
    described = json.loads((model / "model.json").read_text())
    described["parameters"]["layers/bias"]["pieces"][1] ^= 1
    edit(model, parameters=described["parameters"])
    with pytest.raises(R2T2Error, match=r"is damaged \(checksums of layers/bias\); convert the model again"):
        restore(open_model_directory(model, "toy"), CONVERTER.abstract_params(ToyConfig()))


def test_every_difference_to_another_model_is_listed(model):
    abstract = CONVERTER.abstract_params(ToyConfig(layers=2))
    abstract["more"] = abstract["scale"]
    del abstract["words"]
    with pytest.raises(R2T2Error) as caught:
        restore(open_model_directory(model, "toy"), abstract)
    for part in (
        "no parameter more",
        "unknown parameter words",
        "layers/kernel has shape (3, 4, 4), not (2, 4, 4)",
        "layers/bias has shape (3, 4), not (2, 4)",
    ):
        assert part in str(caught.value)


def test_reading_in_small_groups_gives_the_same(model, monkeypatch):
    directory, abstract = open_model_directory(model, "toy"), CONVERTER.abstract_params(ToyConfig())
    whole = restore(directory, abstract)
    monkeypatch.setattr("ports.common.checkpoint.load.GROUP_BYTES", 20)
    jax.tree.map(lambda a, b: (a == b).all() or pytest.fail("differs"), whole, restore(directory, abstract))
