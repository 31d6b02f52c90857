"""`r2t2 convert`: errors are one line and leave no files. tests/test_embedders.py tests its output."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from r2t2_jax.cli.main import main
from tests.ports.common.embedder_folders import write_gte, write_minilm, write_stella

pytest.importorskip("safetensors")


@pytest.fixture
def source(tmp_path):
    return write_gte(tmp_path / "source")


def fails(capsys, arguments: list[str]) -> str:
    assert main(["convert", *arguments, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_an_unknown_model_lists_the_known_ones(capsys, tmp_path):
    error = fails(capsys, ["gpt", "x", str(tmp_path / "model")])
    known = "gte_qwen2, minilm, moai, mova, nv_embed, olmoe, qwen3_5_moe, qwen3_moe, qwen3_vl_moe, stella"
    assert error == f"r2t2: unknown model to convert 'gpt'; known: {known}\n"


def damage_truncated(source):
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return "model.safetensors is truncated"


def damage_config(source):
    (source / "config.json").write_text("{")
    return "config.json cannot be read"


def damage_unknown_field(source):
    described = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(described | {"rope_kind": "new"}))
    return "rope_kind"


def damage_depth(source):
    described = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(described | {"num_hidden_layers": 1, "intermediate_size": 20}))
    return "unmapped: layers.1.input_layernorm.weight"


def damage_index(source):
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    return "names files that are not there"


@pytest.mark.parametrize("damage", [damage_truncated, damage_config, damage_depth, damage_index])
def test_a_damaged_source_is_one_line_and_leaves_no_files(capsys, source, damage):
    expected = damage(source)
    error = fails(capsys, ["gte_qwen2", str(source), str(source.parent / "model")])
    assert expected in error
    assert [path.name for path in source.parent.iterdir()] == ["source"]


def test_an_unknown_field_is_refused_by_strict_conversion(capsys, source):
    expected = damage_unknown_field(source)
    assert expected in fails(capsys, ["gte_qwen2", str(source), str(source.parent / "model"), "--strict"])
    assert [path.name for path in source.parent.iterdir()] == ["source"]


def test_all_mismatches_are_in_one_line(capsys, source):
    damage_depth(source)
    error = fails(capsys, ["gte_qwen2", str(source), str(source.parent / "model")])
    assert error.count("unmapped: layers.1.") == 12
    assert error.count("decoder/layers/mlp") == 3  # gate, up and down are too wide


def test_the_folder_of_another_model_is_refused(capsys, tmp_path):
    source = write_minilm(tmp_path / "source")
    error = fails(capsys, ["gte_qwen2", str(source), str(tmp_path / "model")])
    assert "model_type = 'bert', only 'qwen2' is implemented" in error


def test_a_destination_that_exists_or_cannot_be_created_is_refused(capsys, source):
    (source.parent / "full").mkdir()
    (source.parent / "full" / "file").write_text("kept")
    assert "exists already" in fails(capsys, ["gte_qwen2", str(source), str(source.parent / "full")])
    assert (source.parent / "full" / "file").read_text() == "kept"
    inside = str(source.parent / "full" / "file" / "model")
    assert f"cannot write {inside} (" in fails(capsys, ["gte_qwen2", str(source), inside])


def test_a_missing_folder_of_the_head_is_named(capsys, tmp_path):
    source = write_stella(tmp_path / "source")
    (source / "2_Dense_1024" / "model.safetensors").unlink()
    error = fails(capsys, ["stella", str(source), str(tmp_path / "model")])
    assert f"no weights in {source / '2_Dense_1024'}" in error


def test_an_interruption_leaves_no_files_and_the_command_can_be_repeated(tmp_path):
    source, model = write_minilm(tmp_path / "source"), tmp_path / "model"
    command = [sys.executable, "-m", "r2t2_jax.cli.main", "convert", "minilm", str(source), str(model)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    working = tmp_path / ".model.converting"
    while process.poll() is None and not working.exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    if process.returncode == 130:  # else it was complete before the signal arrived
        assert errors.splitlines()[-1] == "r2t2: interrupted"
        assert [path.name for path in tmp_path.iterdir()] == ["source"]
        assert main([*command[3:], "--quiet"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"source", "model"}
