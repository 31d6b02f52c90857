"""The Qwen3.5-MoE port: full sizes, checkpoints in every spelling, bad input, costs, and the way to an answer."""

import dataclasses
import json
from functools import cache
from itertools import product

import jax
import ml_dtypes
import numpy as np
import pytest

from ports.common.checkpoint.mapping import Tensor, check
from ports.common.moe_lm.params import dequantize
from ports.common.qwen_vl.config import vision_config
from ports.common.qwen_vl.model import abstract
from ports.qwen3_5_moe.config import full_35b_a3b, text_config
from ports.qwen3_5_moe.params import FIELDS, MTP, adapt, config_from, converter, leaves
from ports.qwen3_5_moe.port import RULES, load, shapes
from r2t2_jax.contract import Sample
from r2t2_jax.costs.ladder import VariantTraces, count_passes
from r2t2_jax.errors import R2T2Error
from tests.goldens import EXTRA, HERE
from tests.ports.common.qwen_vl.recorded import recorded
from tests.ports.common.qwen_vl.source import drawn, run_readme, write_fp8, write_source

GOLDEN = HERE / "qwen3_5_moe"
CHECKPOINTS = sorted(path.parent for folder in EXTRA for path in folder.rglob("ckpt/qwen3_5_moe_?/config.json"))
ROPE = {"mrope_interleaved": True, "rope_theta": 1e4}
DTYPES = {"BF16": "bfloat16", "F32": "float32", "F8_E4M3": "float8"}


@cache
def golden():
    return recorded(GOLDEN / "qwen3_5_moe_a.npz")


def tensors():
    mtp = {"mtp.fc.weight": np.zeros((32, 64), np.float32)}  # the head for speculative decoding
    return mtp | {name[2:]: leaf for name, leaf in golden().arrays.items() if name.startswith("w/")}


@cache
def manifest():
    return json.loads((GOLDEN / "manifest_qwen3_5_35b_a3b.json").read_text())


def test_the_full_size_is_that_of_the_manifest():
    config, described = full_35b_a3b(), manifest()["config"]
    assert text_config(described["text_config"]) == dataclasses.replace(config.decoder, dtype="float32")
    without_types = {name: value for name, value in described["text_config"].items() if name != "layer_types"}
    assert text_config(without_types).full == config.decoder.full
    own = vision_config(described["vision_config"], defaults={"deepstack_visual_indexes": []})
    assert own == dataclasses.replace(config.vision, dtype="float32")
    FIELDS.read(described)
    assert FIELDS.unknown(described) == {}
    _, params = abstract(config)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == manifest()["total_parameters_without_mtp"]


def test_every_name_of_the_full_checkpoint_is_met_and_those_of_mtp_are_left_out():
    entries = manifest()["tensors"] | manifest()["mtp_tensors"]
    names = {name: Tensor(tuple(entry["shape"]), DTYPES[entry["dtype"]]) for name, entry in entries.items()}
    config = adapt(full_35b_a3b(), names)
    report = check(leaves(config), names, abstract(config)[1], (MTP,))
    assert set(report.ignored) == set(manifest()["mtp_tensors"])


@pytest.mark.slow  # 63,000 names
def test_every_name_of_the_fp8_checkpoint_is_met():
    folded = json.loads((HERE / "qwen3_vl_moe" / "manifest_fp8_per_expert.json").read_text())["qwen3_5_35b_a3b_fp8"]
    names = {}
    for entry in folded:
        parts = entry["pattern"].split("#")
        for numbers in product(*entry["indices"]):
            name = parts[0] + "".join(f"{number}{part}" for number, part in zip(numbers, parts[1:], strict=True))
            names[name] = Tensor(tuple(entry["shape"]), DTYPES[entry["dtype"]])
    config = adapt(dataclasses.replace(full_35b_a3b(), fp8_block=128), names)
    assert config.separate_experts
    fp8 = ("layers/experts/down", "linear_attn/in_proj_qkv/kernel", "layers/shared_expert/up_proj/kernel")
    assert {f"decoder/{path}" for path in fp8} <= set(config.fp8_leaves)
    report = check(leaves(config), names, abstract(config)[1], (MTP,))
    assert all(name.startswith("mtp.") for name in report.ignored)


@pytest.mark.slow
def test_costs_at_c3pos_scope_are_a_fraction_of_a_prefill():
    costs = shapes("35b-a3b", None, None)
    traces, passes = VariantTraces(costs), count_passes(costs)
    conditioned = costs.costs.variants[-1]
    assert 5 * 10 * traces.step_flops(conditioned) <= 0.3 * passes.encode
    assert 16 * passes.rerouted_loss <= 0.05 * traces.once_flops(conditioned)
    assert traces.kept_bytes(conditioned) < 13e6  # bytes of a reference, below those of Qwen3-VL-30B-A3B
    assert traces.backward_bytes(conditioned) < 50e6  # no copy of an expert's weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen3_next"}, "model_type = 'qwen3_next', only 'qwen3_5_moe' is implemented"),
        ({"model_type": "qwen3_5_moe_text"}, "no field vocab_size; no field hidden_size"),
        ({"language_model_only": True}, "language_model_only = True, only False is implemented"),
        ({"text_config": {"num_key_value_heads": 3}}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        ({"text_config": {"num_experts_per_tok": 9}}, "num_experts_per_tok 9 is larger than num_experts 8"),
        ({"quantization_config": {"quant_method": "awq"}}, "only FP8 in square blocks is read"),
        ({"text_config": {"attn_output_gate": False}}, "attn_output_gate = False, only True"),
        ({"text_config": {"layer_types": ["full_attention"] * 4}}, "layer_types must name 4 layers, some linear"),
        ({"text_config": {"linear_num_value_heads": 3}}, "linear_num_value_heads 3 is no multiple"),
        ({"text_config": {"rope_parameters": {"mrope_section": [11, 11, 10]}}}, "only an interleaved M-RoPE"),
        ({"text_config": {"rope_parameters": "default"}}, "rope_parameters"),
        ({"text_config": {"rope_parameters": ROPE}}, "mrope_section must have three"),
        ({"text_config": {"rope_parameters": ROPE | {"mrope_section": [2, 2]}}}, "three whole numbers, not .2, 2."),
        ({"text_config": {"rope_parameters": ROPE | {"partial_rotary_factor": "x"}}}, "partial_rotary_factor"),
        ({"text_config": {"layer_types": 3}}, "layer_types"),
        ({"text_config": {"layer_types": None, "full_attention_interval": 0}}, "full_attention_interval = 0"),
        ({"vision_config": 3}, "vision_config|must be an object"),
        ({"quantization_config": "fp8"}, "quantization_config"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": 128}}, "only FP8 in square blocks"),
        ({"image_token_id": "x"}, "image_token_id"),
    ],
)
def test_configs_that_change_the_computation_are_refused_in_one_line(tmp_path, change, message):
    source = write_source(tmp_path / "source", golden(), {})
    described = json.loads((source / "config.json").read_text())
    text = described["text_config"] | change.pop("text_config", {})
    (source / "config.json").write_text(json.dumps(described | change | {"text_config": text}))
    with pytest.raises(R2T2Error, match=message) as raised:
        config_from(source)
    assert "\n" not in str(raised.value)


def test_the_rules_of_sharding_name_parameters_and_cover_all_large_ones():
    import re

    from ports.common.checkpoint.mapping import named

    _, params = abstract(full_35b_a3b())
    sizes = {path: leaf.size for path, leaf in named(params).items() if path.startswith("decoder/")}
    matched = [{path for path in sizes if re.fullmatch(pattern, path)} for pattern, _ in RULES]
    assert all(matched)
    small = {path for path, size in sizes.items() if path not in set().union(*matched)}
    assert sum(sizes[path] for path in small) < 0.001 * sum(sizes.values())


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3_5_moe")
    source = write_source(folder / "source", golden(), tensors())
    written = converter.convert(str(source), folder / "model", progress=False)
    assert written["report"]["ignored"] == ["mtp.fc.weight"]
    assert written["unknown_fields"] == {}
    return folder / "model"


def test_a_converted_model_has_the_recorded_weights_and_prepares_samples(directory):
    port = load(f"{directory},layers=last2,core_experts=4")
    for own, reference in zip(jax.tree.leaves(port.params), jax.tree.leaves(golden().params), strict=True):
        np.testing.assert_array_equal(own, reference)
    samples = [
        Sample("a", drawn(0), "What?", ("Cat.",)),
        Sample("b", None, "What is it?", ("Dog",), ("x", "y"), "letter"),
    ]
    inputs = port.processor.prepare(port.params, samples)
    assert int(inputs.prompt.visual[0].sum()) * 4 == int((inputs.patches.frame[0] >= 0).sum())
    assert "layers=2+3:last_prompt:core=4" in port.fingerprint
    assert port.processor.fingerprint == "qwen3_5_moe:384-1024"


def test_bad_samples_give_one_line(directory):
    port = load(f"{directory},layers=last2,scope=image")
    for image, message in (
        (None, "sample 'x' has no image"),
        (np.zeros((0, 4, 3), np.uint8), "its image has no pixels"),
    ):
        with pytest.raises(R2T2Error, match=message) as raised:
            port.processor.prepare(port.params, [Sample("x", image, "What?", ())])
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source", CHECKPOINTS, ids=str)
def test_a_golden_checkpoint_is_converted_to_the_recorded_weights(source, tmp_path):
    written = converter.convert(str(source), tmp_path / "model", progress=False)
    assert all(name.startswith("mtp.") for name in written["report"]["ignored"])
    port = load(str(tmp_path / "model"))
    reference = recorded(source.parent.parent / f"{source.name}.npz").params
    for own, expected in zip(jax.tree.leaves(port.params), jax.tree.leaves(reference), strict=True):
        np.testing.assert_array_equal(own, expected)
    port.processor.prepare(port.params, [Sample("a", drawn(0), "What?", ("Cat.",))])


@pytest.mark.slow
def test_fp8_tensors_are_converted_to_their_scaled_values(tmp_path):
    block, arrays, expected = 16, {}, {}
    for name, leaf in tensors().items():
        if ".mlp.experts." not in name:
            keeps = name.endswith(("A_log", "linear_attn.norm.weight"))
            arrays[name] = leaf if keeps else leaf.astype(ml_dtypes.bfloat16)
            continue
        both = np.split(leaf, 2, axis=1) if "gate_up" in name else [leaf]  # [E, out, in]
        parts = ("gate_proj", "up_proj") if "gate_up" in name else ("down_proj",)
        layer, made = name.rsplit(".", 1)[0], []
        for part, weights in zip(parts, both, strict=True):
            rows = []
            for number, weight in enumerate(weights):
                shape = tuple(-(-size // block) for size in weight.shape)
                scales = np.random.default_rng(number).uniform(0.5, 2, shape).astype(np.float32)
                eight = weight.astype(ml_dtypes.float8_e4m3fn)
                arrays[f"{layer}.{number}.{part}.weight"] = eight
                arrays[f"{layer}.{number}.{part}.weight_scale_inv"] = scales
                rows.append(dequantize(eight, scales, block).T)
            made.append(np.stack(rows))
        expected[name] = np.concatenate(made, axis=2)
    quantized = {"quant_method": "fp8", "weight_block_size": [block, block]}
    source = write_source(tmp_path / "source", golden(), {}, quantization_config=quantized)
    write_fp8(source / "model.safetensors", arrays)
    converter.convert(str(source), tmp_path / "model", progress=False)
    port = load(f"{tmp_path / 'model'},dtype=bfloat16")
    decoder = port.params["decoder"]
    assert decoder["linear_attn"]["A_log"].dtype == decoder["linear_attn"]["norm"]["scale"].dtype == np.float32
    for layer in range(4):
        for own, name in (("gate_up", "gate_up_proj"), ("down", "down_proj")):
            recorded_name = f"model.language_model.layers.{layer}.mlp.experts.{name}"
            actual = np.asarray(decoder["layers"]["experts"][own][...])[layer]
            np.testing.assert_array_equal(actual, expected[recorded_name])


@pytest.mark.slow
def test_from_a_checkpoint_to_a_report_by_the_commands_of_the_readme(tmp_path, monkeypatch):
    source = write_source(tmp_path / "source", golden(), tensors())
    run_readme("qwen3_5_moe", source, tmp_path, monkeypatch)
