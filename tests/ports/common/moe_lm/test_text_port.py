"""The ports of text models, from a checkpoint to an answer: Qwen3-MoE with a chat template, OLMoE without one."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from ports.olmoe import port as olmoe
from ports.qwen3_moe import port as qwen3_moe
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import encode_batch, generate_tokens
from r2t2_jax.routing import Routing
from tests.goldens import HERE

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
    port = module.load(f"{tmp_path / 'model'},layers=1,2,core_experts=4,prompt_bucket=80")
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
