"""The adapter against lmms-eval's own interface, where that is installed, else against a copy of the part it uses."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

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

INSTALLED = find_spec("lmms_eval") is not None
REFERENCES = make_samples(40, seed=3, hinted=0.4)


@dataclass
class FakeInstance:
    request_type: str
    arguments: tuple[Any, ...]
    idx: int
    metadata: dict[str, Any]

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


@dataclass
class FakeManifest:
    model_id: str
    simple_class_path: str


class FakeModel:
    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}

    @classmethod
    def create_from_arg_string(cls, text: str, more: dict[str, Any]) -> Any:
        return cls(**dict(pair.split("=") for pair in text.split(",")), **more)


@pytest.fixture(autouse=True)
def lmms_eval(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """lmms-eval, or what the adapter imports of it."""
    if not INSTALLED:
        contents = {
            "lmms_eval": {},
            "lmms_eval.api": {},
            "lmms_eval.api.instance": {"Instance": FakeInstance},
            "lmms_eval.api.model": {"lmms": FakeModel},
            "lmms_eval.models": {},
            "lmms_eval.models.registry_v2": {"ModelManifest": FakeManifest},
        }
        for name, content in contents.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
    yield
    sys.modules.pop("r2t2_jax.evaluation.lmms_eval_model", None)


@pytest.fixture
def create(monkeypatch):
    """The adapter with a bank of `REFERENCES`, as lmms-eval creates it."""
    from r2t2_jax.evaluation.lmms_eval_model import ReroutedModel

    bank = collect_bank(toy(), REFERENCES, get_metric("exact_match"), keep_wrong=True)
    monkeypatch.setattr("r2t2_jax.evaluation.lmms_eval_model.open_bank", lambda *a, **k: bank)

    def create(strategy, *more):
        text = ",".join((f"model=tests.toy_port:toy,strategy={strategy},preset=toy", *more))
        return ReroutedModel.create_from_arg_string(text, {"batch_size": 4})

    return create


@pytest.fixture
def adapter(create):
    return create("ngd")


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


@pytest.mark.skipif(not INSTALLED, reason="needs lmms-eval's registry: pip install --no-deps lmms-eval==0.7.3")
def test_lmms_eval_finds_the_model():
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    from r2t2_jax.evaluation.lmms_eval_model import ReroutedModel, manifest

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class("r2t2") is ReroutedModel


def test_the_model_answers_like_the_evaluation(adapter):
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


def test_references_are_refused_unless_leakage_is_allowed(create):
    """The ids of lmms-eval are others than those of the bank, so images and questions decide, whole prompts or not."""
    samples = [*make_samples(3, seed=1, hinted=0.4), replace(REFERENCES[5], id="other")]
    documents, instances = requests(samples)
    for adapter in (create("base"), create("base", "allow_leakage=false")):
        adapter.task_dict = documents
        with pytest.raises(R2T2Error, match=r"1 of 4 questions are also references in the bank, first 'task/3'"):
            adapter.generate_until(instances)
    prompt = f"{instances[3].args[0]}\nAnswer with one word: {REFERENCES[5].question}"
    instances[3].arguments = (prompt, *instances[3].args[1:])
    documents["task"]["test"][3] = {"question": REFERENCES[5].question, "sample": REFERENCES[5]}
    instances[3].arguments = (
        *instances[3].args[:2],
        lambda document: [Image.fromarray(document["sample"].image)],
        *instances[3].args[3:],
    )
    adapter.task_dict = documents
    with pytest.raises(R2T2Error, match=r"1 of 4 questions are also references"):
        adapter.generate_until(instances)
    adapter = create("base", "allow_leakage=true")
    adapter.task_dict = documents
    assert len(adapter.generate_until(instances)) == 4


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
