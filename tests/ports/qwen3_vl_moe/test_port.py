"""The Qwen3-VL-MoE port: full sizes, checkpoints in every spelling, settings, bad input, and the way to an answer."""

import dataclasses
import json
import shutil
from functools import cache
from itertools import product

import jax
import ml_dtypes
import numpy as np
import pytest

from ports.common.checkpoint.mapping import Tensor, check
from ports.common.moe_lm.params import dequantize, inputs_first
from ports.common.qwen_vl.config import vision_config
from ports.common.qwen_vl.model import abstract
from ports.qwen3_vl_moe.config import full_30b_a3b, text_config
from ports.qwen3_vl_moe.params import FIELDS, adapt, config_from, converter, leaves
from ports.qwen3_vl_moe.port import load, shapes
from r2t2_jax.contract import Sample
from r2t2_jax.costs.ladder import VariantTraces, count_passes
from r2t2_jax.costs.memory import MemoryEstimator, largest_sizes
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy
from r2t2_jax.plugins import load_shapes
from tests.goldens import EXTRA, HERE
from tests.ports.common.qwen_vl.recorded import recorded
from tests.ports.common.qwen_vl.source import drawn, run_readme, write_fp8, write_source

GOLDEN = HERE / "qwen3_vl_moe"
CHECKPOINTS = sorted(path.parent for folder in EXTRA for path in folder.rglob("ckpt/qwen3_vl_moe_?/config.json"))


@cache
def golden():
    return recorded(GOLDEN / "qwen3_vl_moe_a.npz")


def tensors():
    return {name[2:]: leaf for name, leaf in golden().arrays.items() if name.startswith("w/")}


@cache
def manifest():
    return json.loads((GOLDEN / "manifest_qwen3_vl_30b_a3b.json").read_text())


def test_the_full_size_is_that_of_the_manifest():
    config = full_30b_a3b()
    described = manifest()["config"]
    assert text_config(described["text_config"]) == dataclasses.replace(config.decoder, dtype="float32")
    assert vision_config(described["vision_config"]) == dataclasses.replace(config.vision, dtype="float32")
    FIELDS.read(described)
    assert FIELDS.unknown(described) == {}
    _, params = abstract(config)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == manifest()["total_parameters"]


def test_every_name_of_the_full_checkpoint_is_met():
    names = {name: Tensor(tuple(e["shape"]), "bfloat16") for name, e in manifest()["tensors"].items()}
    config = adapt(full_30b_a3b(), names)
    check(leaves(config), names, abstract(config)[1])


def test_every_name_of_the_fp8_checkpoint_is_met():
    folded = json.loads((GOLDEN / "manifest_fp8_per_expert.json").read_text())["qwen3_vl_30b_a3b_fp8"]
    names = {}
    for entry in folded:
        parts = entry["pattern"].split("#")
        for numbers in product(*entry["indices"]):
            name = parts[0] + "".join(f"{number}{part}" for number, part in zip(numbers, parts[1:], strict=True))
            names[name] = Tensor(tuple(entry["shape"]), "float8" if entry["dtype"] == "F8_E4M3" else "bfloat16")
    config = adapt(dataclasses.replace(full_30b_a3b(), fp8_block=128), names)
    assert config.separate_experts
    assert "decoder/layers/experts/gate_up" in config.fp8_leaves
    check(leaves(config), names, abstract(config)[1])


def test_blocks_are_scaled_by_their_own_scale():
    values = np.ones((3, 5), ml_dtypes.float8_e4m3fn)
    scales = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    expected = np.repeat(np.repeat(scales, 2, axis=0), 2, axis=1)[:3, :5]
    np.testing.assert_array_equal(dequantize(values, scales, 2).astype(np.float32), expected)
    with pytest.raises(ValueError, match="scales of shape"):
        dequantize(values, scales[:1], 2)


def test_fused_experts_in_the_layout_of_memory_are_transposed_and_ambiguous_ones_refused():
    weights = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(inputs_first(weights, 3, 4), weights)
    np.testing.assert_array_equal(inputs_first(weights, 4, 3), weights.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="same shape in both layouts"):
        inputs_first(np.zeros((2, 4, 4)), 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"text_config": {"num_key_value_heads": 3}}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        ({"text_config": {"num_experts_per_tok": 9}}, "num_experts_per_tok 9 is larger than num_experts 8"),
        ({"text_config": {"head_dim": 15}}, "15 of 15 entries of a head are rotated; they must be pairs"),
        ({"text_config": {"head_dim": None, "num_attention_heads": 3}}, "hidden_size 32 is no multiple"),
        ({"text_config": {"head_dim": None, "num_attention_heads": "x"}}, "num_attention_heads"),
        ({"text_config": {"mlp_only_layers": [0]}}, r"mlp_only_layers = .0."),
        ({"text_config": {"num_hidden_layers": 1}}, "deepstack_visual_indexes has more entries than the decoder"),
        ({"vision_config": {"deepstack_visual_indexes": [0, 4]}}, "different blocks of the tower, from 0 to 3"),
        ({"vision_config": {"deepstack_visual_indexes": [2, 2]}}, "different blocks of the tower"),
        ({"vision_config": {"num_position_embeddings": 35}}, "num_position_embeddings 35 is not a square"),
        ({"vision_config": {"num_heads": 4}}, "24 of the tower is no multiple of 4 x num_heads 4"),
        ({"quantization_config": {"quant_method": "awq"}}, "only FP8 in square blocks is read"),
    ],
)
def test_configs_that_change_the_computation_are_refused(tmp_path, change, message):
    source = write_source(tmp_path / "source", golden(), {})
    described = json.loads((source / "config.json").read_text())
    nested = {name: described[name] | change.get(name, {}) for name in ("text_config", "vision_config")}
    (source / "config.json").write_text(json.dumps(described | change | nested))
    with pytest.raises(R2T2Error, match=message) as raised:
        config_from(source)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("layers=9", "layers=9 of a model with layers 0 to 3"),
        ("layers=last7", "layers=last7 of a model with 4 layers"),
        ("layers=some", "layers=some is not all, last5, 8-20 or 43,45"),
        ("core_experts=7", "core_experts=7 of a model with 6 experts"),
        ("scope=mine", "there is no scope 'mine'"),
        ("dtype=int8", "choose float32 or bfloat16"),
        ("shade=1", "qwen3_vl_moe has no setting 'shade=1'; known settings: layers="),
    ],
)
def test_settings_that_the_model_does_not_have_are_refused_in_one_line(setting, message):
    with pytest.raises(R2T2Error, match=message):
        shapes(f"tiny,{setting}", 40, 2)


def test_the_fingerprint_says_what_is_re_routed_and_a_list_of_layers_may_have_commas():
    model = shapes("tiny,layers=1,3,scope=prompt", 40, 2).model
    assert model.scope.layers == (1, 3)
    assert model.spec.layer_names == ("layer 1", "layer 3")


def test_costs_at_c3pos_scope_are_a_fraction_of_a_prefill():
    costs = shapes("30b-a3b", None, None)
    traces, passes = VariantTraces(costs), count_passes(costs)
    conditioned = costs.costs.variants[-1]
    assert 5 * 10 * traces.step_flops(conditioned) <= 0.3 * passes.encode
    assert 16 * passes.rerouted_loss <= 0.05 * traces.once_flops(conditioned)
    assert traces.kept_bytes(conditioned) < 15e6  # bytes of a reference
    assert traces.backward_bytes(conditioned) < 50e6  # no copy of an expert's weights


def test_30b_fits_one_card_of_141_gb_and_235b_eight():
    ngd = strategy("ngd", Preset.from_mapping({"neighborhood.k": 5}))
    whole, large = load_shapes("qwen3_vl_moe:30b-a3b"), load_shapes("qwen3_vl_moe:235b-a22b")
    memory = MemoryEstimator(whole, ngd).compiled(1, 5)
    assert 62e9 < memory.parameters < memory.total < 0.9 * 141e9
    with pytest.raises(R2T2Error, match="does not fit into 141 GB: its parameters take 471 GB"):
        largest_sizes(MemoryEstimator(large, ngd), 141 * 10**9, 5)
    mesh = jax.sharding.AbstractMesh((8,), ("model",))
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        large.params,
        large.shardings(large.params, mesh),
    )
    memory = MemoryEstimator(dataclasses.replace(large, params=placed), ngd).compiled(1, 5)
    assert 471e9 / 8 < memory.parameters < memory.total < 0.9 * 141e9


def test_a_missing_chat_template_is_named_and_another_tokenizer_replaces_only_its_own_files(tmp_path):
    source, other = write_source(tmp_path / "source", golden(), {}), tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text("{}")
    files = converter.describe(source, tokenizer=other).tokenizer
    assert files["tokenizer.json"].parent == other
    assert {"chat_template.jinja", "preprocessor_config.json", "generation_config.json"} <= set(files)
    (source / "chat_template.jinja").unlink()
    (source / "tokenizer_config.json").write_text("{}")
    with pytest.raises(R2T2Error, match="the checkpoint lacks a chat template, which places images in a prompt"):
        converter.describe(source)


@cache
def converted(folder):
    source = write_source(folder / "source", golden(), tensors())
    converter.convert(str(source), folder / "model", progress=False)
    return folder / "model"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3_vl_moe")
    yield converted(folder)
    shutil.rmtree(folder)


def test_a_converted_model_has_the_recorded_weights_and_prepares_samples(directory):
    port = load(f"{directory},layers=last2")
    for own, reference in zip(jax.tree.leaves(port.params), jax.tree.leaves(golden().params), strict=True):
        np.testing.assert_array_equal(own, reference)
    samples = [
        Sample("a", drawn(0), "What?", ("Cat.",)),
        Sample("b", None, "What is it?", ("Dog",), ("x", "y"), "letter"),
    ]
    inputs = port.processor.prepare(port.params, samples)
    text = port.processor.tokenizer.encode("<|im_start|>user\n")
    first = np.asarray(inputs.prompt.tokens[0])[np.asarray(inputs.prompt.mask[0])]
    assert first[: len(text)].tolist() == text
    assert int(inputs.prompt.visual[0].sum()) * 4 == int((inputs.patches.frame[0] >= 0).sum())
    assert int(inputs.prompt.visual[1].sum()) == 0
    answer = port.processor.answer_ids(["Cat."])
    assert port.processor.decode(np.asarray(answer.tokens)) == ["Cat."]


@pytest.mark.parametrize("source", CHECKPOINTS, ids=str)
def test_a_golden_checkpoint_is_converted_to_the_recorded_weights(source, tmp_path):
    written = converter.convert(str(source), tmp_path / "model", progress=False)
    assert written["report"]["ignored"] == []
    port = load(str(tmp_path / "model"))
    reference = recorded(source.parent.parent / f"{source.name}.npz").params
    for own, expected in zip(jax.tree.leaves(port.params), jax.tree.leaves(reference), strict=True):
        np.testing.assert_array_equal(own, expected)
    port.processor.prepare(port.params, [Sample("a", drawn(0), "What?", ("Cat.",))])


def test_bad_samples_give_one_line(directory):
    port = load(f"{directory},layers=last2,scope=image")
    for image, message in (
        (None, "sample 'x' has no image"),
        (np.zeros((0, 4, 3), np.uint8), "its image has no pixels"),
        (np.zeros((1, 300, 3), np.uint8), "more than 200 times the other"),
    ):
        with pytest.raises(R2T2Error, match=message) as raised:
            port.processor.prepare(port.params, [Sample("x", image, "What?", ())])
        assert "\n" not in str(raised.value)
    long = Sample("x", drawn(0), "What? " * 800, ())
    with pytest.raises(R2T2Error, match=r"sample 'x': a prompt of [\d,]+ tokens; this model takes 1 to 4,095"):
        port.processor.prepare(port.params, [long])
    with pytest.raises(R2T2Error, match="2 image tokens for 1 images"):
        port.processor.prepare(port.params, [Sample("x", drawn(0), "<|image_pad|>", ())])


def test_per_expert_fp8_tensors_are_converted_to_their_scaled_values(tmp_path):
    block, arrays, expected = 16, {}, {}
    for name, leaf in tensors().items():
        if ".mlp.experts." not in name:
            arrays[name] = leaf.astype(ml_dtypes.bfloat16)
            continue
        both = np.split(leaf, 2, axis=2) if "gate_up" in name else [leaf]
        parts = ("gate_proj", "up_proj") if "gate_up" in name else ("down_proj",)
        layer, made = name.rsplit(".", 1)[0], []
        for part, weights in zip(parts, both, strict=True):
            rows = []
            for number, weight in enumerate(weights.transpose(0, 2, 1)):  # [out, in]
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
    written = converter.convert(str(source), tmp_path / "model", progress=False)
    assert written["config"]["fp8_block"] == block
    port = load(f"{tmp_path / 'model'},layers=last2,dtype=bfloat16")
    experts = port.params["decoder"]["layers"]["experts"]
    for layer in range(4):
        for own, name in (("gate_up", "gate_up_proj"), ("down", "down_proj")):
            recorded_name = f"model.language_model.layers.{layer}.mlp.experts.{name}"
            np.testing.assert_array_equal(np.asarray(experts[own][...])[layer], expected[recorded_name])


@pytest.mark.slow
def test_from_a_checkpoint_to_a_report_by_the_commands_of_the_readme(tmp_path, monkeypatch):
    source = write_source(tmp_path / "source", golden(), tensors())
    run_readme("qwen3_vl_moe", source, tmp_path, monkeypatch)
