"""The adapter against lmms-eval's own interface, where that is installed."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy
from r2t2_jax.metrics import get_metric
from tests.toy_port import make_samples, toy

pytest.importorskip("lmms_eval.api.model")

REFERENCES = make_samples(40, seed=3, hinted=0.4)


@pytest.fixture
def adapter(monkeypatch, tmp_path):
    from r2t2_jax.evaluation.lmms_eval_model import ReroutedModel

    bank = collect_bank(toy(), REFERENCES, get_metric("exact_match"), keep_wrong=True)
    monkeypatch.setattr("r2t2_jax.evaluation.lmms_eval_model.open_bank", lambda *a, **k: bank)
    return ReroutedModel.create_from_arg_string("model=tests.toy_port:toy,strategy=ngd,preset=toy", {"batch_size": 4})


def requests(samples, images=1):
    from lmms_eval.api.instance import Instance

    docs = [SimpleNamespace(sample=sample) for sample in samples]

    def visuals(doc):
        return [Image.fromarray(doc.sample.image)] * images

    instances = []
    for i, sample in enumerate(samples):
        arguments = (sample.question, {"until": ["\n"], "max_new_tokens": 16}, visuals, i, "task", "test")
        metadata = {"task": "task", "doc_id": i, "repeats": 1}
        instances.append(Instance("generate_until", arguments, 0, metadata))
    return {"task": {"test": docs}}, instances


def test_the_registered_model_answers_like_the_evaluation(adapter):
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    from r2t2_jax.evaluation.lmms_eval_model import ReroutedModel, manifest

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class("r2t2") is ReroutedModel
    samples = make_samples(10, seed=1, hinted=0.4)
    adapter.task_dict, instances = requests(samples)
    answers = adapter.generate_until(instances)
    preset = Preset.from_mapping(toy().presets["toy"])
    bank = collect_bank(toy(), REFERENCES, get_metric("exact_match"), keep_wrong=True)
    (expected,) = evaluate(
        toy(), bank, encode_questions(toy(), samples), {"ngd": strategy("ngd", preset)}, get_metric("exact_match")
    )
    assert answers == expected.predictions


def test_neighbors_are_those_of_the_evaluation(adapter):
    from r2t2_jax.evaluation.evaluator import Evaluator

    samples = make_samples(10, seed=1, hinted=0.4)
    adapter.task_dict, instances = requests(samples)
    adapter.task_dict["task"]["test"] = [{"question": sample.question, "sample": sample} for sample in samples]
    for instance, sample in zip(instances, samples, strict=True):
        prompt = f"Choose one.\nA. right\nB. left\n{sample.question}"  # the toy reads the last word
        visuals = [lambda document: [Image.fromarray(document["sample"].image), None]]
        instance.arguments = (prompt, {"until": None}, *visuals, *instance.args[3:])
    embedded, read, encode = [], [], encode_questions

    def recording(port, batch, size, texts):
        questions = encode(port, batch, size, texts)
        embedded.append(questions.embeddings)
        read.extend(texts)
        return questions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("r2t2_jax.evaluation.lmms_eval_model.encode_questions", recording)
        adapter.generate_until(instances)
    assert read[: len(samples)] == [sample.question for sample in samples]
    preset = Preset.from_mapping(toy().presets["toy"])
    bank = collect_bank(toy(), REFERENCES, get_metric("exact_match"), keep_wrong=True)
    index = Evaluator.create(toy(), bank, {"ngd": strategy("ngd", preset)}, None).index
    keys = jax.random.split(jax.random.key(0), len(samples))
    ours = index.retrieve({"ngd": strategy("ngd", preset)}, encode(toy(), samples).embeddings, keys, None)
    theirs = index.retrieve({"ngd": strategy("ngd", preset)}, np.concatenate(embedded)[: len(samples)], keys, None)
    rows = np.arange(len(samples))
    np.testing.assert_array_equal(ours.indices("ngd", rows), theirs.indices("ngd", rows))


@pytest.mark.parametrize(("size", "batch"), [("auto", 16), ("3", 3), (2, 2)])
def test_batch_sizes(size, batch):
    from r2t2_jax.evaluation.lmms_eval_model import _batch_size

    assert _batch_size(size) == batch
    with pytest.raises(R2T2Error, match="batch_size=0 is not a number of questions"):
        _batch_size("0")


def test_unsupported_requests_are_refused(adapter):
    adapter.task_dict, instances = requests(make_samples(2, seed=1, hinted=0.4), images=2)
    with pytest.raises(R2T2Error, match="task 0 has 2 images"):
        adapter.generate_until(instances)
    for call in (adapter.loglikelihood, adapter.generate_until_multi_round):
        with pytest.raises(R2T2Error, match="generate_until"):
            call(instances)
