"""Checkpoints in every layout that PyTorch and Transformers write are read; anything else is refused by its name."""

import json
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

import ports.olmoe.port as olmoe
import ports.qwen3_5_moe.params as hybrid_params
import ports.qwen3_moe.port as qwen3_moe
import ports.qwen3_vl_moe.config as vl_config
import ports.qwen3_vl_moe.params as vl_params
from ports.common.checkpoint.formats import open_checkpoint
from ports.common.checkpoint.mapping import Leaf, Tensor, check
from ports.common.configs import ConfigFields, checked_value, transformers_4
from ports.common.moe_lm.chat import ChatTokenizer
from ports.common.moe_lm.params import dequantize
from ports.common.moe_lm.port import buckets
from ports.common.qwen_vl.processing import ImageLimits
from ports.embedders.minilm import MiniLMConfig
from ports.embedders.qwen2_embed import Qwen2EmbedConfig
from ports.moai.config import MoAIConfig
from ports.mova.hf_config import from_hf
from r2t2_jax.errors import R2T2Error
from tests.goldens import HERE

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


def qwen_configs(folder: Path) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The reader of `config.json` of each Qwen port and OLMoE, and a valid config; `folder` gets a stop token."""
    (folder / "generation_config.json").write_text('{"eos_token_id": [98, 96]}')
    multimodal = {
        name: json.loads((HERE / name / file).read_text())["config"]
        for name, file in (
            ("qwen3_vl_moe", "manifest_qwen3_vl_30b_a3b.json"), ("qwen3_5_moe", "manifest_qwen3_5_35b_a3b.json"),
        )
    }  # fmt: skip
    text = {name: value for name, value in multimodal["qwen3_vl_moe"]["text_config"].items() if "rope" not in name}
    text |= {"rope_theta": 1e6, "model_type": "qwen3_moe"}
    without_width = {name: value for name, value in text.items() if name != "head_dim"}
    return {
        "qwen3_vl_moe": (vl_params.config_from, multimodal["qwen3_vl_moe"]),
        "qwen3_5_moe": (hybrid_params.config_from, multimodal["qwen3_5_moe"]),
        "qwen3_moe": (qwen3_moe.FAMILY.config_from, text),
        "olmoe": (olmoe.FAMILY.config_from, without_width | {"intermediate_size": 1024}),
    }


@pytest.mark.parametrize("name", ["qwen3_vl_moe", "qwen3_5_moe", "qwen3_moe", "olmoe"])
@given(data=st.data())
def test_any_change_of_a_config_of_a_language_model_is_read_or_refused(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / name
    folder.mkdir(exist_ok=True)
    read, config = qwen_configs(folder)[name]
    place = data.draw(st.sampled_from(["", "text_config", "vision_config", "rope_parameters"]))
    inner = config[place] if isinstance(config.get(place), dict) else config
    field = data.draw(st.sampled_from(sorted(inner)))
    values = [None, True, -1, 0, 3, 2**62, 0.5, -1e300, "", "16", "../x", [], [[]], {}, {"x": []}, [None], ["x"]]
    changed = {**inner, field: data.draw(st.sampled_from(values))}
    content = changed if inner is config else {**config, place: changed}
    (folder / "config.json").write_text(json.dumps(content))
    message = ""
    try:
        read(folder)
    except R2T2Error as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"rope_parameters": {"rope_theta": 1e4}}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn"}}, "only whole heads of type 'default'"),
        ({"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}, "only whole heads"),
        ({"num_local_experts": 7}, "num_experts"),
        ({"head_dim": None, "num_attention_heads": 3}, "is no multiple of num_attention_heads 3"),
    ],
)
def test_a_field_with_two_values_is_refused(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    read, config = qwen_configs(tmp_path)["qwen3_moe"]
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(R2T2Error, match=cause):
        read(tmp_path)


def test_rotary_settings_of_qwen3_vl_in_two_spellings_must_agree(tmp_path: Path) -> None:
    read, config = qwen_configs(tmp_path)["qwen3_vl_moe"]
    text = config["text_config"]
    rope = text.get("rope_scaling") or text["rope_parameters"]
    both = {"rope_scaling": rope, "rope_parameters": {**rope, "rope_theta": 7.0}, "rope_theta": 5e6}
    (tmp_path / "config.json").write_text(json.dumps(config | {"text_config": text | both}))
    with pytest.raises(R2T2Error, match="rope_theta"):
        read(tmp_path)


PREPROCESSOR = {
    "size": {"longest_edge": 16_777_216, "shortest_edge": 65_536}, "patch_size": 16, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"size": []}, {"size": "x"}, {"size": True}, {"size": None}, {"size": {"longest_edge": 0, "shortest_edge": 0}},
        {"size": {"longest_edge": -1, "shortest_edge": 1}}, {"size": {"longest_edge": 10, "shortest_edge": 10**6}},
        {"size": {"longest_edge": True, "shortest_edge": True}}, {"size": {"longest_edge": 500, "shortest_edge": 1}},
        {"size": {"longest_edge": "16777216", "shortest_edge": 1}}, {"image_mean": None}, {"image_mean": 0.5},
        {"image_mean": [0.5, 0.5]}, {"image_mean": ["a", "b", "c"]}, {"image_mean": [0.5, None, 0.5]},
        {"image_std": [0.5, 0.0, 0.5]}, {"image_std": [-1, 1, 1]}, {"image_std": [True, True, True]}, {"image_std": {}},
        {"patch_size": "16"}, {"merge_size": None}, {"rescale_factor": 1}, {"do_resize": False}, {"resample": 2},
    ],
)  # fmt: skip
def test_values_of_a_preprocessor_are_checked(tmp_path: Path, change: dict[str, Any]) -> None:
    config = vl_config.full_30b_a3b()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    assert ImageLimits.read(tmp_path, config).max_pixels == 16_777_216
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | change))
    with pytest.raises(R2T2Error, match=r"preprocessor_config\.json"):
        ImageLimits.read(tmp_path, config)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"[" * 100_000), ("tokenizer.json", b"[]"), ("tokenizer.json", b"\xff\xfe{"),
        ("tokenizer_config.json", b"[" * 100_000), ("tokenizer_config.json", b'{"chat_template": 7}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default", "template": []}]}'),
        ("chat_template.json", b"null"), ("chat_template.jinja", b"\xff\xfea"), ("chat_template.jinja", b"{{"),
        ("chat_template.jinja", b"{{ messages[5].x.y }}"), ("chat_template.jinja", b"{{ " + b"(" * 3000 + b" }}"),
        ("chat_template.jinja", b"{{ cycler.__init__.__globals__.os.system('true') }}"),
        ("chat_template.jinja", b"{% for x in range(10 ** 12) %}{% endfor %}"),
    ],
)  # fmt: skip
def test_damaged_files_of_a_chat_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    tokenizer = Tokenizer(models.WordLevel({"red": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / name).write_bytes(content)

    def ask() -> list[int]:
        chat = ChatTokenizer.open(tmp_path, (1,))
        return chat.encode(chat.prompt("red"))

    with pytest.raises(R2T2Error) as error:
        ask()
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_before_a_template_is_no_part_of_it(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"red": 0}, unk_token="red")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_bytes(b"\xef\xbb\xbf{{ messages[0].content }}")
    assert ChatTokenizer.open(tmp_path, (1,)).prompt("red") == "red"


def test_a_tokenizer_that_fails_on_a_text_is_named(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"red": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(R2T2Error, match=r"the tokenizer of .* fails on 'blue'"):
        ChatTokenizer.open(tmp_path, (1,)).encode("blue")


@pytest.mark.parametrize(
    "setting",
    [
        "layers=0-99999999999", "layers=" + "9" * 5000, "layers=last" + "9" * 5000, "layers=3-1",
        "core_experts=" + "9" * 5000, "core_experts=\u0665", "layers=\u0662",
    ],
)  # fmt: skip
def test_settings_of_a_variant_are_refused_before_they_take_memory(setting: str) -> None:
    with pytest.raises(R2T2Error) as error:
        qwen3_moe.FAMILY.shapes(f"30b-a3b,{setting}", 8, 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "9" * 5000, "99999999999", "\u0665", ""])
def test_buckets_of_a_variant_have_bounds(size: str) -> None:
    with pytest.raises(R2T2Error, match="prompt_bucket"):
        buckets({"prompt_bucket": size})


def test_fp8_tensors_without_scales_are_refused() -> None:
    tensors = {"w": Tensor((2, 3), "float8_e4m3fn")}
    shapes = {"kernel": jax.ShapeDtypeStruct((3, 2), np.float32)}
    with pytest.raises(R2T2Error, match="kernel: FP8 tensors without the scales of their blocks"):
        check({"kernel": Leaf(("w",), np.transpose)}, tensors, shapes)
    with pytest.raises(ValueError, match="scales of blocks above"):
        dequantize(np.ones((2, 2), np.float32), np.full((1, 1), 1e38, np.float32), 2)
