"""Checkpoints of the Qwen3.5-MoE family without a vision tower: other names and fields, the same decoder."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.moe_decoder import abstract
from ports.qwen3_5_moe.params import converter
from ports.qwen3_5_moe.port import load, shapes
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import encode_batch, generate_tokens
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit
from tests.goldens import HERE
from tests.ports.common.qwen_vl.recorded import recorded
from tests.ports.common.qwen_vl.source import drawn, write_source

TOWER = "model.visual.pos_embed.weight"


def golden():
    return recorded(HERE / "qwen3_5_moe" / "qwen3_5_moe_a.npz")


def write_text_source(folder, prefix="model.", **fields):
    """The recorded model's text half as a hub folder."""
    weights = {name[2:]: leaf for name, leaf in golden().arrays.items() if name.startswith("w/")}
    text = {name: leaf for name, leaf in weights.items() if not name.startswith("model.visual.")}
    tensors = {name.replace("model.language_model.", prefix): leaf for name, leaf in text.items()}
    tensors |= {"mtp.fc.weight": np.zeros((2, 2), np.float32)}
    write_source(folder, golden(), tensors if prefix == "model." else tensors | {TOWER: weights[TOWER]})
    described = golden().described["text_config"]
    rotary = {name: described["rope_parameters"][name] for name in ("rope_theta", "partial_rotary_factor")}
    config = {**described, "model_type": "qwen3_5_moe_text", "rope_parameters": rotary, "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config | fields))
    (folder / "preprocessor_config.json").unlink()
    return folder


@pytest.mark.parametrize("prefix", ["model.", "model.language_model."])
def test_a_text_model_has_the_decoder_of_the_multimodal_one(tmp_path, prefix):
    source = write_text_source(tmp_path / "source", prefix)
    written = converter.convert(str(source), tmp_path / "model", progress=False)
    assert written["unknown_fields"] == {}
    assert written["report"]["ignored"] == sorted({"mtp.fc.weight"} | ({TOWER} if prefix != "model." else set()))
    port = load(f"{tmp_path / 'model'},layers=last2,core_experts=4")
    for own, reference in zip(jax.tree.leaves(port.params), jax.tree.leaves(golden().params["decoder"]), strict=True):
        np.testing.assert_array_equal(own, reference)
    config = golden().config.decoder
    assert port.model.config == dataclasses.replace(config, sections=())
    positions = jnp.broadcast_to(jnp.arange(5), (3, 5))
    np.testing.assert_array_equal(port.model.config.angles(positions), config.angles(positions))
    assert "layers=2+3:last_prompt:core=4" in port.fingerprint
    assert shapes(f"{tmp_path / 'model'},layers=last2", 40, 2).model.spec == port.model.spec
    inputs = port.processor.prepare(port.params, [Sample("a", None, "What is it?", ("Dog",), ("x", "y"), "letter")])
    assert inputs.tokens.shape == (1, 128)
    with pytest.raises(R2T2Error, match="sample 'a' has an image, and this model reads text only"):
        port.processor.prepare(port.params, [Sample("a", drawn(0), "What?", ())])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"attn_output_gate": False}, "attn_output_gate = False, only True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "of type default is implemented"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.1}},
            "3 of 32 entries of a head are rotated; they must be pairs",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, "only FP8 in square blocks is read"),
        ({"model_type": "qwen3_next"}, "'qwen3_next', only 'qwen3_5_moe' is implemented, and 'qwen3_5_moe_text'"),
    ],
)
def test_text_configs_that_change_the_computation_are_refused_in_one_line(tmp_path, fields, message):
    source = write_text_source(tmp_path / "source", **fields)
    with pytest.raises(R2T2Error, match=message) as raised:
        converter.config_from(source)
    assert "\n" not in str(raised.value)


def test_a_text_model_needs_no_image_settings_and_reads_no_images(tmp_path):
    source = write_text_source(tmp_path / "source")
    assert converter.describe(source).config.prefix == "model."
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"model_type": "qwen3_5_moe"}))
    with pytest.raises(R2T2Error, match="lacks preprocessor_config"):
        converter.describe(source)


@pytest.mark.slow
def test_the_text_model_of_transformers_has_the_same_logits_and_r0_leaves_its_answers_unchanged(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = write_text_source(tmp_path / "source")
    described = json.loads((source / "config.json").read_text())
    rotary = golden().described["text_config"]["rope_parameters"]
    fields = transformers.Qwen3_5MoeTextConfig(**described | {"rope_parameters": rotary})
    torch.manual_seed(0)
    theirs = transformers.Qwen3_5MoeForCausalLM(fields).eval().float()
    (source / "model.safetensors").unlink()
    theirs.save_pretrained(source)  # config.json and the tensors in transformers' own spelling
    written = converter.convert(str(source), tmp_path / "model", progress=False)
    assert written["unknown_fields"] == {}
    port = load(f"{tmp_path / 'model'},layers=last2")
    tokens = np.random.default_rng(0).integers(0, 96, 70)  # two chunks
    with torch.no_grad():
        expected = theirs(torch.as_tensor(tokens)[None]).logits[0].numpy()
    graph, _ = abstract(port.model.config)

    @quick_jit
    def logits(params, tokens):
        net = nnx.merge(graph, params)
        positions = jnp.broadcast_to(jnp.arange(len(tokens)), (3, len(tokens)))
        return net.logits(net.run(net.embed(tokens), positions, jnp.ones(len(tokens), bool))[0])

    np.testing.assert_allclose(logits(port.params, tokens), expected, atol=2e-4)
    samples = [Sample("a", None, "What?", ("Cat.",)), Sample("b", None, "Is it so?", ("No",))]
    inputs = port.processor.prepare(port.params, samples)
    features, own = encode_batch(port.params, inputs, model=port.model)
    untouched, routed = (
        generate_tokens(port.params, features, routing, model=port.model, max_new_tokens=4)
        for routing in (None, Routing(own))
    )
    np.testing.assert_array_equal(untouched, routed)
