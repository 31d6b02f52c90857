"""Weights of imported ids: those that a model's gates give to the ids, and their agreement with its own choice."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from ports.common.moe_lm.chat import TextProcessor
from r2t2_jax.cli.main import main
from r2t2_jax.contract import ReplayModel, TokenProcessor
from r2t2_jax.datasets import load_dataset
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routes.exchange import import_routes
from r2t2_jax.routes.record import record_samples
from r2t2_jax.routes.recording import Recording
from r2t2_jax.routes.replay import Replay
from tests.ports.qwen3_5_moe.test_model import model as hybrid
from tests.ports.qwen3_5_moe.test_model import sample as hybrid_sample
from tests.routes.test_recording import language_model
from tests.toy_port import make_samples, toy


@pytest.fixture(scope="module")
def replay():
    port = language_model()
    processor = TextProcessor(port.model.config, None, 24, 4)  # of token ids only
    assert isinstance(port.model, ReplayModel)
    assert isinstance(processor, TokenProcessor)
    return Replay(replace(port, processor=processor), {})


@pytest.fixture(scope="module")
def recorded():
    """Two samples with the routes and logits of all tokens."""
    return record_samples(language_model(), make_samples(2, seed=0, hinted=0.5), "toy", "all", True, 2)


def response(sample, ids):
    answer = np.asarray(sample.kinds) == "answer"
    choice = {"token_ids": sample.tokens[answer].tolist(), "routed_experts": ids.tolist()}
    return {"request_id": sample.id, "prompt_token_ids": sample.tokens[~answer].tolist(), "choices": [choice]}


def imported(tmp_path, replay, samples, routes):
    path = tmp_path / "responses.jsonl"
    path.write_text("\n".join(json.dumps(response(*pair)) for pair in zip(samples, routes, strict=True)))
    return import_routes(path, "vllm", tmp_path / "routes", replay=replay)


def test_recorded_ids_get_their_weights_back(tmp_path, replay, recorded):
    recording = imported(tmp_path, replay, recorded, [sample.experts[:-1] for sample in recorded])
    assert recording.facts.agreement == (1, 1)
    assert recording.facts.experts == replay.port.model.spec.experts
    assert "agreement" not in replace(recording.facts, agreement=None).summary()["routes"]
    for sample, original in zip(recording.samples(), recorded, strict=True):
        np.testing.assert_array_equal(sample.experts[:-1], original.experts[:-1])
        np.testing.assert_allclose(sample.weights[:-1], original.weights[:-1], atol=1e-3)
        assert not sample.weights[-1].any()  # no route is known
        assert list(sample.kinds) == list(original.kinds)


def test_other_ids_have_the_weights_of_the_gate_and_lower_the_agreement(tmp_path, replay, recorded):
    """In the last layer of a token no other gate depends on the experts."""
    routes = [sample.experts[:-1].copy() for sample in recorded]
    ids, logits = routes[0][-1, 1], recorded[0].logits[-2, 1].astype(float)
    top_k = replay.port.model.top_k
    ids[:] = [ids[-1], *np.argsort(logits)[: top_k - 1]]  # the gate's last choice, then its least ones
    recording = imported(tmp_path, replay, recorded, routes)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    weights = shares[ids] / (shares[ids].sum() if replay.port.model.config.normalize else 1)
    np.testing.assert_allclose(recording.sample(recorded[0].id).weights[-2, 1], weights, atol=2e-3)
    tokens = sum(len(each) for each in routes)
    assert recording.facts.agreement == pytest.approx((1, 1 - (top_k - 1) / (tokens * top_k)), abs=1e-6)


def test_sequences_that_maxtext_packs_into_a_row_do_not_read_each_other(tmp_path, replay, recorded):
    path = tmp_path / "packed.npz"
    arrays = {
        "routed_experts": np.concatenate([sample.experts for sample in recorded])[None].astype(np.int32),
        "inputs": np.concatenate([sample.tokens for sample in recorded])[None],
        "inputs_segmentation": np.repeat([1, 2], [len(sample.tokens) for sample in recorded])[None],
    }
    np.savez(path, **arrays)
    recording = import_routes(path, "maxtext", tmp_path / "routes", replay=replay)
    (row,) = recording.samples()
    assert recording.facts.agreement == (1, 1)
    np.testing.assert_allclose(row.weights, np.concatenate([each.weights for each in recorded]), atol=1e-3)
    np.savez(path, routed_experts=arrays["routed_experts"])
    with pytest.raises(R2T2Error, match=r"packed.npz: sample '0' has no token ids, which --model needs; leave out"):
        import_routes(path, "maxtext", tmp_path / "other", replay=replay)


def test_what_does_not_fit_the_model_is_refused_before_a_folder_is_written(tmp_path, replay, recorded):
    own = [sample.experts[:-1] for sample in recorded]
    experts, vocabulary = len(replay.port.model.spec.experts), replay.port.model.config.vocab_size
    foreign = replace(recorded[0], tokens=recorded[0].tokens + vocabulary)
    cases = (
        (recorded, [ids[:, :1] for ids in own], "has routes of 1 layers x "),
        (recorded, [own[0], own[1] + experts], f"names expert {experts + int(own[1].max())}, letters has 0 to"),
        ([foreign, recorded[1]], own, f"the vocabulary has 0 to {vocabulary - 1}: is this the model"),
    )
    for samples, routes, problem in cases:
        with pytest.raises(R2T2Error, match=problem):
            imported(tmp_path, replay, samples, routes)
        assert not (tmp_path / "routes").exists()
    with pytest.raises(R2T2Error, match="toy routes whole samples; --model is a model that routes token by token"):
        imported(tmp_path, Replay(toy(), {}), recorded, own)


def test_categories_are_those_of_the_questions_of_the_ids(tmp_path, recorded, capsys):
    pocket = load_dataset("pocket", "test", 2, 0)
    samples = [replace(sample, id=each.id) for sample, each in zip(recorded, pocket, strict=True)]
    path, out = tmp_path / "responses.jsonl", tmp_path / "routes"
    path.write_text("\n".join(json.dumps(response(sample, sample.experts[:-1])) for sample in samples))
    words = ["routes", "import", "--format", "vllm", str(path), "--out", str(out)]
    assert main([*words, "--limit", "3"]) == 2
    assert "--limit chooses questions of --data: give --data too" in capsys.readouterr().err
    assert main([*words, "--data", "pocket", "--limit", "2"]) == 0
    assert [sample.category for sample in Recording.open(out)] == [sample.category for sample in pocket]


@pytest.mark.slow
def test_prompts_with_images_get_their_weights_back(tmp_path, capsys):
    """Recorded by `pocket:sparse`, exported, and imported with the images of the questions."""
    data, model = ["--data", "pocket", "--limit", "4"], ["--model", "pocket:sparse"]
    recorded, written, out = (str(tmp_path / name) for name in ("recorded", "responses.jsonl", "routes"))
    assert main(["routes", "record", *model, *data, "--out", recorded]) == 0
    for kind in ("verifiers", "sglang", "vllm"):
        assert main(["routes", "export", "--format", kind, recorded, "--out", written]) == 0
        capsys.readouterr()
        words = ["routes", "import", "--format", kind, written, *model, "--out", f"{out}-{kind}"]
        assert main([*words, *data, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["agreement"] == [1, 1, 1, 1]
        again, originals = (Recording.open(tmp_path / name).samples() for name in (f"routes-{kind}", "recorded"))
        for sample, original in zip(again, originals, strict=True):
            assert list(sample.kinds) == list(original.kinds)
            np.testing.assert_allclose(sample.weights[:-1], original.weights[:-1], atol=2e-3)
    assert main(["routes", "import", "--format", "vllm", written, *model, "--out", f"{out}-none"]) == 2
    assert "the prompt has 16 image tokens, and its 0 images need 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_decoder_with_linear_attention_replays_its_routes():
    model, params = hybrid()
    prompt, _ = hybrid_sample()
    tokens, routes = jax.jit(lambda *inputs: model.record_routes(*inputs, 3))(params, prompt)
    weights, own = jax.jit(model.replay_routes)(params, prompt, model.as_answer(tokens), routes.experts)
    real = np.asarray(routes.kinds) >= 0
    np.testing.assert_array_equal(own[real], routes.experts[real])
    np.testing.assert_allclose(weights[real], routes.weights[real], atol=2e-3)
