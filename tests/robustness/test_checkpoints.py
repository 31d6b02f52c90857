"""Checkpoints in every layout that PyTorch and Transformers write are read; anything else is refused by its name."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ports.common.checkpoint.formats import open_checkpoint
from ports.common.configs import ConfigFields, checked_value, transformers_4
from ports.embedders.minilm import MiniLMConfig
from ports.embedders.qwen2_embed import Qwen2EmbedConfig
from ports.moai.config import MoAIConfig
from ports.mova.hf_config import from_hf
from r2t2_jax.errors import R2T2Error

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BERT = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 40, "max_position_embeddings": 64, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
}  # fmt: skip
QWEN2 = {
    "model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "rms_norm_eps": 1e-6, "vocab_size": 40, "rope_theta": 1e6,
}  # fmt: skip
LLAMA = {
    "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "rms_norm_eps": 1e-5, "vocab_size": 128256, "rope_theta": 5e5,
}  # fmt: skip


def refusal(folder: Path) -> str:
    with pytest.raises(R2T2Error) as error:
        open_checkpoint(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


def test_torch_files_in_every_layout_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(VALUES.copy())
    layouts: dict[str, tuple[Any, dict[str, Any]]] = {
        "legacy": ({"w": tensor}, {"_use_new_zipfile_serialization": False}),
        "parameters": ({"w": torch.nn.Parameter(tensor)}, {}),
        "state_dict": ({"state_dict": {"w": tensor}, "epoch": 3}, {}),
        "model": ({"model": {"w": tensor}, "optimizer": {"lr": 0.1}}, {}),
        "float8": ({"w": tensor.to(torch.float8_e4m3fn)}, {}),
        "transposed": ({"w": torch.from_numpy(VALUES.T.copy()).T}, {}),
    }
    for name, (content, options) in layouts.items():
        (tmp_path / name).mkdir()
        torch.save(content, tmp_path / name / "pytorch_model.bin", **options)
        checkpoint = open_checkpoint(tmp_path / name)
        assert list(checkpoint) == ["w"]
        np.testing.assert_array_equal(np.asarray(checkpoint.weights("w"), np.float32), VALUES)


def test_other_torch_contents_are_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(2, 3)
    contents = {
        "a Tensor": tensor,
        "a list": [tensor],
        "entry 'step' is no tensor but a int": {"w": tensor, "step": 7},
        "entry 1 has no name": {1: tensor},
        "several state dictionaries (state_dict, model)": {"state_dict": {"w": tensor}, "model": {"w": tensor}},
        "holds no tensors": {},
        "tensor 'w' is torch.sparse_coo": {"w": tensor.to_sparse()},
        "tensor 'w' has dtype torch.float8_e5m2": {"w": tensor.to(torch.float8_e5m2)},
        "tensor 'w' has dtype torch.complex64": {"w": tensor.to(torch.complex64)},
        "tensor 'w' is on the meta device": {"w": torch.empty(2, device="meta")},
    }
    for cause, content in contents.items():
        torch.save(content, tmp_path / "pytorch_model.bin")
        assert cause in refusal(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"<!doctype html><p>log in</p>", "an HTML page"),
        (b"", "an empty file"),
        (b"\x80\x02nonsense", ""),
        (b"PK\x03\x04nonsense", ""),
    ],
)
def test_other_files_are_called_by_their_name(tmp_path: Path, name: str, content: bytes, cause: str) -> None:
    if name.endswith(".bin"):
        pytest.importorskip("torch")
    (tmp_path / name).write_bytes(content)
    assert cause in refusal(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        {"w": ONE | {"data_offsets": [-4, 0]}}, {"w": ONE, "v": ONE}, [], {"w": None}, {"w": ONE | {"dtype": []}},
        {"w": ONE | {"shape": [-1]}}, {"w": ONE | {"data_offsets": [0, 8]}}, {"w": ONE | {"dtype": "F8_E4M3"}}, "x", 7,
    ],
)  # fmt: skip
def test_headers_that_the_format_forbids_are_refused(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    refusal(tmp_path)


@given(position=st.integers(0, 200), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_safetensors_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    save_file({"w": VALUES}, folder / "model.safetensors")
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[position % len(raw)] = value
    (folder / "model.safetensors").write_bytes(raw[: position % len(raw)] if cut else raw)
    try:
        open_checkpoint(folder)
    except R2T2Error:
        return


@pytest.mark.parametrize("place", ["../secret.safetensors", "{top}/secret.safetensors", "a/../../secret.safetensors"])
def test_an_index_names_files_of_its_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "source").mkdir()
    save_file({"w": VALUES}, tmp_path / "secret.safetensors")
    index = {"weight_map": {"w": place.format(top=tmp_path)}}
    (tmp_path / "source" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is not below" in refusal(tmp_path / "source")


def test_weights_are_finite_numbers(tmp_path: Path) -> None:
    for content, cause in ((VALUES * np.float32("nan"), "NaN or infinity"), (VALUES.astype(np.int32), "dtype int32")):
        save_file({"w": content}, tmp_path / "model.safetensors")
        with pytest.raises(R2T2Error, match=cause):
            open_checkpoint(tmp_path).weights("w")


def test_configs_of_transformers_5_are_read() -> None:
    new = {key: value for key, value in QWEN2.items() if key != "rope_theta"}
    new |= {"dtype": "float32", "layer_types": ["full_attention"] * 2}
    rotary = {"rope_theta": 5e5, "rope_type": "default"}
    assert Qwen2EmbedConfig.from_hf(new | {"rope_parameters": rotary}, None, 64).theta == 5e5
    assert from_hf(LLAMA | {"dtype": "float16"}).dtype == "float16"
    assert from_hf(LLAMA | {"torch_dtype": "torch.float16"}).dtype == "float16"
    assert from_hf(LLAMA | {"torch_dtype": None}).dtype == "bfloat16"
    for fields in (
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "yarn"}}, {"rope_parameters": []},
        {"rope_parameters": rotary, "rope_theta": 1e6}, {"layer_types": ["sliding_attention"]},
    ):  # fmt: skip
        with pytest.raises(R2T2Error, match=r"rope|layer_types"):
            transformers_4(fields, "config.json")


@pytest.mark.parametrize("value", ["16", -16, 0, 16.5, None, True, [], {}, float("nan"), 10**12])
@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_sizes_are_positive_whole_numbers(name: str, value: Any) -> None:
    moai = {"hidden_size": 16, "pad_token_id": 0}
    for read, fields in (
        (MiniLMConfig.from_hf, BERT),
        (lambda described: Qwen2EmbedConfig.from_hf(described, None, 64), QWEN2),
        (from_hf, LLAMA),
        (MoAIConfig.from_hf, moai),
    ):
        with pytest.raises(R2T2Error):
            read(fields | {name: value})
    with pytest.raises(R2T2Error, match=name):
        MiniLMConfig.from_hf(BERT | {name: value})


def test_values_of_configs_are_checked_by_name() -> None:
    assert checked_value("f", "pad_token_id", 0, int) == 0
    assert checked_value("f", "rope_theta", 10000, float) == 10000.0
    for name, value, kind in (("eps", "x", float), ("eps", 0.0, float), ("max_seq_length", -5, int | None)):
        with pytest.raises(R2T2Error, match=name):
            checked_value("f", name, value, kind)
    with pytest.raises(R2T2Error, match="config must be an object"):
        ConfigFields("config").read([])  # type: ignore[arg-type]
    with pytest.raises(R2T2Error, match="hidden_size 16 is no multiple of num_attention_heads 3"):
        Qwen2EmbedConfig.from_hf(QWEN2 | {"num_attention_heads": 3}, None, 64)
