"""The ports of text models, from a checkpoint to an answer: Qwen3-MoE with a chat template, OLMoE without one."""

import json
import weakref

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ports.common.checkpoint.formats import Checkpoint
from ports.common.moe_lm.params import dequantize
from ports.olmoe import port as olmoe
from ports.qwen3_moe import port as qwen3_moe
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.dry_run import EvaluationPrediction
from r2t2_jax.method.forward import encode_batch, generate_tokens
from r2t2_jax.methods import method_of
from r2t2_jax.routing import Routing
from tests.goldens import HERE
from tests.ports.common.qwen_vl.source import write_fp8

FAMILIES = {"qwen3_moe": qwen3_moe, "olmoe": olmoe}
TEMPLATE = "{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}<assistant>"


def write_source(folder, family):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    golden = HERE / "moe_llm" / f"moe_{family}_a.npz"
    described = json.loads(golden.with_suffix(".json").read_text())["config"]
    folder.mkdir()
    with np.load(golden) as arrays:
        save_file(
            {name[2:]: arrays[name] for name in arrays.files if name.startswith("w/")}, folder / "model.safetensors"
        )
    (folder / "config.json").write_text(json.dumps({"model_type": family, **described}))
    if family == "qwen3_moe":
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = ["Ġ", "Ċ", *(letter for letter in letters if letter.isascii())][:93]
    tokenizer = Tokenizer(models.BPE({letter: i + 3 for i, letter in enumerate(plain)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_model_answers_from_a_checkpoint(tmp_path, family):
    module = FAMILIES[family]
    written = module.converter.convert(
        str(write_source(tmp_path / "source", family)), tmp_path / "model", progress=False
    )
    assert written["unknown_fields"] == {}
    variant = f"{tmp_path / 'model'},layers=1,2,core_experts=4,prompt_bucket=80"
    port, planned = module.load(variant), module.load(variant, weights=False)
    assert planned.fingerprint == port.fingerprint
    for shape, weight in zip(*map(jax.tree.leaves, (planned.params, port.params)), strict=True):
        assert isinstance(shape, jax.ShapeDtypeStruct) and (shape.shape, shape.dtype) == (weight.shape, weight.dtype)
    sample, strategies = Sample("a", None, "Why?", ("Yes",)), {"ngd": method_of("ngd"), "base": method_of("base")}
    costs = [
        EvaluationPrediction(each, strategies, 0, True, sample).predict(4, 1, False, False) for each in (planned, port)
    ]
    assert costs[0].costs == costs[1].costs and costs[0].memory == costs[1].memory
    with pytest.raises(R2T2Error, match="answer_bucket=0 is no number of tokens"):
        module.load(f"{tmp_path / 'model'},answer_bucket=0")
    assert port.model.scope.layers == (1, 2)
    assert "layers=1+2:last_prompt:core=4" in port.fingerprint
    samples = [Sample("a", None, "Why?", ("Yes",)), Sample("b", None, "Is it so?", ("No",), ("Yes", "No"), "letter")]
    inputs = port.processor.prepare(port.params, samples)
    text = port.processor.tokenizer.tokenizer.decode(np.asarray(inputs.tokens[0])[np.asarray(inputs.mask[0])].tolist())
    assert text == ("<user>Why?<end><assistant>" if family == "qwen3_moe" else "Why?\nAnswer:")
    assert inputs.tokens.shape[1] % 80 == 0
    features, own = encode_batch(port.params, inputs, model=port.model)
    assert own.shape == (2, 2, 8)
    assert np.asarray(port.model.support(features)).sum(axis=-1).tolist() == [[4, 4], [4, 4]]
    untouched, routed = (
        generate_tokens(port.params, features, routing, model=port.model, max_new_tokens=4)
        for routing in (None, Routing(own))
    )
    np.testing.assert_array_equal(untouched, routed)  # r0 at the last token of the prompt
    assert port.processor.decode(np.asarray(port.processor.answer_ids(["Yes"]).tokens)) == ["Yes"]
    with pytest.raises(R2T2Error, match="sample 'c' has an image, and this model reads text only"):
        port.processor.prepare(port.params, [Sample("c", np.zeros((4, 4, 3), np.uint8), "Why?", ())])


def test_a_head_that_is_tied_to_the_embeddings_is_not_stored(tmp_path):
    source = write_source(tmp_path / "source", "olmoe")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with np.load(HERE / "moe_llm" / "moe_olmoe_a.npz") as golden:
        weights = {name[2:]: golden[name] for name in golden.files if name.startswith("w/")}
    with pytest.raises(R2T2Error, match=r"lm_head.weight should equal model.embed_tokens.weight, to which it is tied"):
        olmoe.converter.convert(str(source), tmp_path / "model", progress=False)
    assert not (tmp_path / "model").exists()
    for own in ({"lm_head.weight": weights["model.embed_tokens.weight"]}, {}):
        named = {name: leaf for name, leaf in weights.items() if name != "lm_head.weight"}
        save_file(named | own, source / "model.safetensors")
        olmoe.converter.convert(str(source), tmp_path / f"model{len(own)}", progress=False)
        port = olmoe.load(f"{tmp_path / f'model{len(own)}'},layers=last2")
        assert "lm_head" not in port.params
        net, x = port.model.decoder(port.params), np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
        expected = np.asarray(net.norm(x)) @ weights["model.embed_tokens.weight"].T
        np.testing.assert_allclose(net.logits(x), expected, atol=1e-5)


def test_fp8_tensors_of_a_text_model_are_converted_to_their_scaled_values(tmp_path):
    block, arrays, expected = 8, {}, {}
    source = write_source(tmp_path / "source", "qwen3_moe")
    with np.load(HERE / "moe_llm" / "moe_qwen3_moe_a.npz") as golden:
        weights = {name[2:]: golden[name] for name in golden.files if name.startswith("w/")}
    for number, (name, leaf) in enumerate(weights.items()):
        if not name.endswith("_proj.weight"):
            arrays[name] = expected[name] = leaf.astype(ml_dtypes.bfloat16)
            continue
        shape = tuple(-(-size // block) for size in leaf.shape)
        scales = np.random.default_rng(number).uniform(0.5, 2, shape).astype(np.float32)
        arrays |= {name: leaf.astype(ml_dtypes.float8_e4m3fn), f"{name}_scale_inv": scales}
        expected[name] = dequantize(arrays[name], scales, block)
    write_fp8(source / "model.safetensors", arrays)
    config = json.loads((source / "config.json").read_text())
    with pytest.raises(R2T2Error, match="scales of FP8 blocks, and its config"):
        qwen3_moe.converter.convert(str(source), tmp_path / "model", progress=False)
    for quantized, message in (({"quant_method": "awq"}, "only FP8 in square blocks is read"), (7, "must be")):
        (source / "config.json").write_text(json.dumps(config | {"quantization_config": quantized}))
        with pytest.raises(R2T2Error, match=message):
            qwen3_moe.converter.convert(str(source), tmp_path / "model", progress=False)
    quantized = {"quant_method": "fp8", "weight_block_size": [block, block]}
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": quantized}))
    written = qwen3_moe.converter.convert(str(source), tmp_path / "model", progress=False)
    assert written["config"]["fp8_block"] == block
    layers = qwen3_moe.load(f"{tmp_path / 'model'},layers=last2").params["layers"]
    for layer in range(3):
        for name in ("q_proj", "o_proj"):
            own = np.asarray(layers[name]["kernel"][...][layer])
            np.testing.assert_array_equal(own, expected[f"model.layers.{layer}.self_attn.{name}.weight"].T)
        experts = f"model.layers.{layer}.mlp.experts"
        for expert, own in enumerate(np.asarray(layers["experts"]["down"][...][layer])):
            np.testing.assert_array_equal(own, expected[f"{experts}.{expert}.down_proj.weight"].T)


@pytest.mark.slow  # writes many small pieces
def test_a_conversion_holds_few_tensors_however_many_shards_there_are(tmp_path, monkeypatch):
    source, layers, piece = write_source(tmp_path / "source", "qwen3_moe"), 12, 2**15
    with np.load(HERE / "moe_llm" / "moe_qwen3_moe_a.npz") as golden:
        weights = {name[2:]: golden[name] for name in golden.files if name.startswith("w/")}
    (source / "model.safetensors").unlink()
    shards = {-1: {name: leaf for name, leaf in weights.items() if ".layers." not in name}}
    for layer in range(layers):
        own, prefix = f"model.layers.{layer % 3}.", f"model.layers.{layer}."
        shards[layer] = {name.replace(own, prefix): leaf for name, leaf in weights.items() if name.startswith(own)}
    places = {}
    for number, tensors in shards.items():
        places |= dict.fromkeys(tensors, f"model-{number}.safetensors")
        save_file(tensors, source / f"model-{number}.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))

    held = {"now": 0, "most": 0, "read": 0}
    read = Checkpoint.weights

    def release(size):
        held["now"] -= size

    def counted(self, name):
        tensor = read(self, name)
        held["now"] += tensor.nbytes
        held["read"] += tensor.nbytes
        held["most"] = max(held["most"], held["now"])
        weakref.finalize(tensor, release, tensor.nbytes)
        return tensor

    monkeypatch.setattr(Checkpoint, "weights", counted)
    for module in ("directory", "orbax_writer"):
        monkeypatch.setattr(f"ports.common.checkpoint.{module}.PIECE", piece)
    qwen3_moe.converter.convert(str(source), tmp_path / "model", progress=False)
    assert held["read"] == sum(leaf.nbytes for tensors in shards.values() for leaf in tensors.values())
    assert held["most"] <= 2 * piece < held["read"] / 8
    assert held["now"] == 0
    monkeypatch.undo()
    layers_of = qwen3_moe.load(f"{tmp_path / 'model'},layers=last2").params["layers"]
    for part, name in (("gate_up", "gate_proj"), ("down", "down_proj")):
        own = np.asarray(layers_of["experts"][part][...])[11, 3]
        expected = weights[f"model.layers.2.mlp.experts.3.{name}.weight"].T
        np.testing.assert_array_equal(own[:, : expected.shape[1]], expected)
