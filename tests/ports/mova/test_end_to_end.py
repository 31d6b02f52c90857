"""From a checkpoint in upstream's names to answers: convert, load, first pass, towers, tokens, text."""

import numpy as np
import pytest

from ports.common.checkpoint.mapping import named
from ports.mova import processing
from ports.mova.config import EXPERTS
from ports.mova.hf_config import from_hf
from ports.mova.port import load
from r2t2_jax.cli.main import main
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.question_sets import with_longest_answer
from r2t2_jax.method.forward import encode_batch, generate_batch
from tests.ports.mova.checkpoint import GOLDEN, describe, write_checkpoint
from tests.ports.mova.recorded import Recorded, mova_config, params_of

pytest.importorskip("safetensors")


def samples():
    rng = np.random.default_rng(0)
    questions = ("what is the color?", "how many are there?", "is this a dog?")
    return [
        Sample(str(n), rng.integers(0, 256, (30 + n, 40, 3), dtype=np.uint8), text, ("a",), style="word")
        for n, text in enumerate(questions)
    ]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mova")
    golden = write_checkpoint(folder / "source")
    assert main(["convert", "mova", str(folder / "source"), str(folder / "model"), "--quiet"]) in (0, None)
    return golden, folder / "model"


def test_every_parameter_equals_the_checkpoint(converted):
    golden, folder = converted
    port = load(str(folder))
    described = mova_config(golden).to_json()
    described["decoder"]["remat"] = "attention"  # the default of loaded models, for gradients
    assert port.model.config.to_json() == {**described, "routing_length": 4, "answer_length": 5}
    expected = named(params_of(golden, mova_config(golden))[1])
    for path, value in named(port.params).items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


@pytest.mark.slow  # compiles all towers
def test_answers_do_not_depend_on_towers_that_were_not_chosen(converted, monkeypatch):
    """Experts that the first pass did not choose are not run, which does not change the model's own answer."""
    chosen = iter([(1, 0, 0, 0, 0, 1, 0), (0,) * 7, (1, 0, 0, 0, 0, 0, 0)] * 2)
    first_answers, towers_run = [], []
    run_tower = processing.run_tower

    def choose(text, experts):
        first_answers.append(text)
        return next(chosen)

    def count(params, views, *, model, expert):
        towers_run.append(expert)
        return run_tower(params, views, model=model, expert=expert)

    monkeypatch.setattr(processing, "chosen_experts", choose)
    monkeypatch.setattr(processing, "run_tower", count)
    answers, questions = {}, samples()
    for towers in ("selected", "all"):
        towers_run.clear()
        port = load(f"{converted[1]},towers={towers}")
        inputs = port.processor.prepare(port.params, questions)
        features, routing = encode_batch(port.params, inputs, model=port.model)
        tokens = np.asarray(generate_batch(port, features, None))
        answers[towers] = port.processor.decode(tokens), tokens, np.asarray(routing)
        if towers == "selected":
            assert towers_run == ["dinov2", "dinov2", "biomedclip"]  # expert by expert, the samples that need it
            assert [int(np.abs(part).sum() > 0) for part in inputs.experts] == [1, 0, 0, 0, 0, 1, 0]
        else:
            assert towers_run == [expert for expert in EXPERTS for _ in questions]
    assert len(first_answers) == 6
    assert all(isinstance(text, str) for text in first_answers)
    assert answers["selected"][0] == answers["all"][0]
    np.testing.assert_array_equal(answers["selected"][1], answers["all"][1])
    np.testing.assert_allclose(answers["selected"][2], answers["all"][2], atol=1e-6)
    assert len(answers["all"][0]) == 3


def test_the_longest_answers_are_those_of_upstreams_scripts(converted):
    """1,024 tokens for four benchmarks, and 128 for the others; this model's answers have 5."""
    port = load(str(converted[1]))
    assert port.max_new_tokens == 5
    assert port.token_limits == {"mmbench": 40, "scienceqa": 40, "mathvista": 40, "qbench": 40}
    assert from_hf({"vocab_size": 128256}).answer_length == 128
    longest = {name: with_longest_answer(port, name, None).max_new_tokens for name in ("mmbench", "gqa")}
    assert longest == {"mmbench": 40, "gqa": 5}
    assert with_longest_answer(port, "mmbench", 7).max_new_tokens == 7


def test_answer_ids_end_with_the_end_token_and_decode_to_the_answer(converted):
    port = load(str(converted[1]))
    answer = port.processor.answer_ids(["a dog", "3"])
    assert answer.tokens[1, 1] == port.model.config.end
    assert list(answer.mask.sum(axis=1)) == [6, 2]
    assert port.processor.decode(answer.tokens) == ["a dog", "3"]


def test_questions_become_unit_vectors_that_do_not_depend_on_the_others(converted):
    port = load(str(converted[1]))
    texts = ["what is this?", "how many objects are there in this image, using a single word or phrase?"]
    vectors = port.embedder.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(port.embedder.embed(texts[:1])[0], vectors[0], atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_a_config_with_other_values_is_refused():
    described = describe(Recorded(GOLDEN))
    config = from_hf(described)
    assert (config.end, config.dtype) == (2, "float32")
    for changed, message in (
        ({"attention_bias": True}, "attention_bias = True, only False is implemented"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"mm_projector_text_encoder": "google-bert/bert-large-cased"}, "bert-large-cased"),
        ({"mm_vision_select_layer": -9}, "select_layer -9"),
        ({"r2t2": {**described["r2t2"], "depth": 1}}, "depth"),
        ({"expert_channels": [1, 2]}, "channels"),
        ({"hidden_size": "wide"}, "wrong type"),
    ):
        fields = {**described, **changed}
        if "expert_channels" in changed:
            fields["r2t2"] = {**fields["r2t2"], "adapter": {}}
        with pytest.raises(R2T2Error, match=message):
            from_hf(fields)


def test_the_released_fields_give_the_full_model():
    config = from_hf({"vocab_size": 128256, "topk_experts": 3, "mm_vision_select_layer": -2, "num_routing_tokens": 144})
    assert (config.adapter.topk, config.clip_blocks, config.decoder.kv_heads, config.dtype) == (3, 23, 8, "bfloat16")
    vicuna = from_hf({"vocab_size": 32000, "num_key_value_heads": 32, "rope_theta": 1e4, "intermediate_size": 11008})
    assert (vicuna.template, vicuna.end, vicuna.decoder.kv_heads) == ("vicuna", 2, 32)


@pytest.mark.parametrize("missing", ["vocab.txt", "tokenizer.json", "config.json"])
def test_a_checkpoint_without_a_file_is_refused_and_leaves_nothing(tmp_path, capsys, missing):
    write_checkpoint(tmp_path / "source")
    (tmp_path / "source" / missing).unlink()
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(["convert", "mova", str(tmp_path / "source"), str(tmp_path / "model"), "--quiet"]))
    assert stopped.value.code == 2
    assert missing in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
