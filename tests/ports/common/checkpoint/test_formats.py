"""Checkpoints on disk: read as their libraries read them; a damaged file is refused by name."""

import json

import ml_dtypes
import numpy as np
import pytest

from ports.common.checkpoint import formats
from ports.common.checkpoint.formats import open_checkpoint
from r2t2_jax.errors import R2T2Error
from tests.ports.common.toy_model import toy_tensors, write_source, write_tensors


@pytest.mark.parametrize("kind", ["shards", "single", "bin"])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_every_tensor_is_read_in_its_dtype(tmp_path, kind, dtype):
    pytest.importorskip("torch" if kind == "bin" else "safetensors")
    tensors = toy_tensors(dtype=dtype)
    checkpoint = open_checkpoint(write_source(tmp_path / "source", tensors, kind))
    assert set(checkpoint) == set(tensors)
    for name, entry in checkpoint.items():
        assert (entry.shape, entry.dtype) == (tensors[name].shape, tensors[name].dtype)
        np.testing.assert_array_equal(entry.read(), tensors[name])


def test_a_large_tensor_is_copied_in_parts_of_the_file(tmp_path, monkeypatch):
    tensor = np.arange(35).reshape(7, 5).astype(ml_dtypes.bfloat16)
    write_tensors(tmp_path / "model.safetensors", {"a": tensor})
    monkeypatch.setattr("ports.common.checkpoint.formats.PART", 25)  # two rows
    weights = open_checkpoint(tmp_path).weights("a")
    assert weights.dtype == tensor.dtype
    np.testing.assert_array_equal(weights, tensor)


def test_a_bin_file_that_is_mapped_again_gives_the_same(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(formats, "REOPEN_AFTER", 16)
    tensors = toy_tensors()
    checkpoint = open_checkpoint(write_source(tmp_path / "source", tensors, "bin"))
    for name in [*tensors, *tensors]:
        np.testing.assert_array_equal(checkpoint[name].read(), tensors[name])


def test_weights_in_subfolders_are_read(tmp_path):
    source = write_source(tmp_path / "source", {"a": np.ones(2)}, "single")
    write_source(source / "2_Dense", {"linear.weight": np.ones(3)}, "single")
    checkpoint = open_checkpoint(source, (".", "2_Dense"))
    assert set(checkpoint) == {"a", "linear.weight"}
    write_tensors(source / "2_Dense" / "model.safetensors", {"a": np.ones(3)})
    with pytest.raises(R2T2Error, match="a is both in"):
        open_checkpoint(source, (".", "2_Dense"))


@pytest.mark.parametrize("kind", ["shards", "bin"])
def test_all_truncated_shards_are_named(tmp_path, kind):
    pytest.importorskip("torch" if kind == "bin" else "safetensors")
    source = write_source(tmp_path / "source", toy_tensors(), kind)
    shards = sorted(path for path in source.iterdir() if path.suffix in (".bin", ".safetensors"))
    for shard in shards:
        content = shard.read_bytes()
        shard.write_bytes(content[: len(content) - 3] if kind == "shards" else content[: len(content) // 2])
    with pytest.raises(R2T2Error, match="2 problems") as caught:
        open_checkpoint(source)
    assert all(str(shard) in str(caught.value) for shard in shards)


@pytest.mark.parametrize("content", [b"", b"1234", b"\xff" * 64, (40).to_bytes(8, "little") + b"{" * 40])
def test_a_file_that_is_not_safetensors_is_refused(tmp_path, content):
    source = write_source(tmp_path / "source", {"a": np.ones(2)}, "single")
    (source / "model.safetensors").write_bytes(content)
    assert "\n" not in refusal(source)


def refusal(source) -> str:
    with pytest.raises(R2T2Error, match=r"model\.safetensors") as caught:
        open_checkpoint(source)
    return str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        [1],
        {"a": 3},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},  # 12 bytes
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8000]}},
        {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F8_E5M2", "shape": [8], "data_offsets": [0, 8]}},
        {"a": {"dtype": "X\n9", "shape": [8], "data_offsets": [0, 8]}},
    ],
)
def test_a_hostile_header_is_refused_in_one_line(tmp_path, header):
    source = write_source(tmp_path / "source", {"a": np.ones(2)}, "single")
    text = json.dumps(header).encode()
    (source / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    assert "\n" not in refusal(source)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"metadata": {}}'])
def test_a_bad_index_is_named(tmp_path, text):
    source = write_source(tmp_path / "source", toy_tensors())
    (source / "model.safetensors.index.json").write_text(text)
    with pytest.raises(R2T2Error, match=r"model\.safetensors\.index\.json is no index"):
        open_checkpoint(source)


def test_an_index_that_lists_missing_tensors_or_files_is_refused(tmp_path):
    source = write_source(tmp_path / "source", toy_tensors())
    index = source / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["ghost"] = "model-0.safetensors"
    index.write_text(json.dumps(listed))
    with pytest.raises(R2T2Error, match=r"model-0\.safetensors has no tensor ghost"):
        open_checkpoint(source)
    (source / "model-1.safetensors").unlink()
    with pytest.raises(R2T2Error, match=r"names files that are not there: .*model-1\.safetensors"):
        open_checkpoint(source)


def test_a_pickle_with_more_than_weights_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    source = write_source(tmp_path / "source", {"a": np.ones(2, "f4")}, "bin")
    torch.save({"a": Evil()}, source / "pytorch_model-0.bin")
    with pytest.raises(R2T2Error, match=r"pytorch_model-0\.bin is truncated or holds more than weights"):
        open_checkpoint(source)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(R2T2Error, match=r"no weights in .*; looked for model\.safetensors"):
        open_checkpoint(tmp_path)
