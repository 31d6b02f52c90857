"""Single questions on the toy port; results equal those of an evaluation."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from r2t2_jax import answer, inference
from r2t2_jax.contract import Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.inference import Prediction, _method
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import find_preset, strategy
from r2t2_jax.metrics import get_metric
from tests.toy_port import make_samples, toy

METRIC = get_metric("exact_match")
TESTS = make_samples(6, seed=1, hinted=0.3)
PORT = toy()
BANK = collect_bank(PORT, make_samples(40, seed=2, hinted=0.9), METRIC)
SAMPLE = TESTS[0]


@pytest.fixture
def own_references(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The loaded sets of references of the toy port, with an empty cache."""
    loaded: list[str] = []

    def load_dataset(name: str, split: str) -> Any:
        loaded.append(f"{name}/{split}")
        return make_samples(40, seed=2, hinted=0.9)

    monkeypatch.setattr("r2t2_jax.evaluation.setup.load_dataset", load_dataset)
    monkeypatch.setattr("r2t2_jax.evaluation.setup.registered", lambda group: ["toy"])
    monkeypatch.setattr("r2t2_jax.inference.reference_cache.find", lambda group, name, kind: make_samples)
    monkeypatch.setattr(inference, "_BANKS", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return loaded


def test_answers_are_those_of_the_evaluation() -> None:
    plan = strategy("ngd", find_preset("toy", PORT.presets))
    questions = encode_questions(PORT, TESTS)
    base, ngd = evaluate(PORT, BANK, questions, {"base": strategy("base"), "ngd": plan}, METRIC)
    predictions = answer(PORT, [sample.image for sample in TESTS], [sample.question for sample in TESTS], bank=BANK)
    assert isinstance(predictions, list)
    assert [prediction.before for prediction in predictions] == base.predictions
    assert [prediction.after for prediction in predictions] == ngd.predictions
    assert any(prediction.before != prediction.after for prediction in predictions)
    for prediction, weights, path, chosen, kernel in zip(
        predictions, ngd.weights, ngd.path, ngd.neighbors, ngd.kernel_weights, strict=True
    ):
        np.testing.assert_array_equal(prediction.weights, weights)
        np.testing.assert_array_equal(prediction.path, path)
        expected = [BANK.records[j]["question"] for j in chosen]
        assert [neighbor.question for neighbor in prediction.neighbors] == expected
        np.testing.assert_allclose(
            [neighbor.share for neighbor in prediction.neighbors], kernel / kernel.sum(), rtol=1e-6
        )
        assert prediction.evaluations == ngd.evaluations
        assert prediction.preset == "toy"


def test_one_question_gives_one_prediction_and_several_may_share_an_image(tmp_path: Path) -> None:
    Image.fromarray(SAMPLE.image).save(tmp_path / "one.png")
    pixels = answer(PORT, SAMPLE.image, SAMPLE.question, bank=BANK)
    assert isinstance(pixels, Prediction)
    for image in (tmp_path / "one.png", str(tmp_path / "one.png"), Image.fromarray(SAMPLE.image)):
        again = answer(PORT, image, SAMPLE.question, bank=BANK)
        assert isinstance(again, Prediction)
        np.testing.assert_array_equal(again.weights, pixels.weights)
    several = answer(PORT, SAMPLE.image, [SAMPLE.question, "What is left?"], bank=BANK)
    assert isinstance(several, list)
    np.testing.assert_array_equal(several[0].weights, pixels.weights)


def test_strategies_without_references_need_no_bank(own_references: list[str]) -> None:
    for name in ("base", "uniform", "best_of_n"):
        without_bank = answer(PORT, SAMPLE.image, SAMPLE.question, strategy=name)
        with_bank = answer(PORT, SAMPLE.image, SAMPLE.question, strategy=name, bank=BANK)
        assert isinstance(without_bank, Prediction)
        assert isinstance(with_bank, Prediction)
        assert (without_bank.before, without_bank.after, without_bank.evaluations) == (
            with_bank.before,
            with_bank.after,
            with_bank.evaluations,
        )
        np.testing.assert_array_equal(without_bank.path, with_bank.path)
    assert own_references == []


def test_given_weights_are_used_unchanged() -> None:
    expert = PORT.model.spec.experts.index(SAMPLE.experts[0])
    row = np.eye(3)[expert].tolist()
    for routing in (row, [row, row]):
        prediction = answer(PORT, SAMPLE.image, SAMPLE.question, routing=routing)
        assert isinstance(prediction, Prediction)
        assert prediction.after == SAMPLE.answers[0]
        assert prediction.strategy == "by hand"
        np.testing.assert_array_equal(prediction.weights, [row, row])
        assert prediction.neighbors == ()


def test_the_references_of_a_port_are_collected_once(own_references: list[str]) -> None:
    first = answer(PORT, SAMPLE.image, SAMPLE.question)
    second = answer(PORT, SAMPLE.image, SAMPLE.question)
    other = answer(dataclasses.replace(PORT, fingerprint="toy-2"), SAMPLE.image, SAMPLE.question)
    assert own_references == ["toy/reference", "toy/reference"]
    assert isinstance(first, Prediction)
    assert isinstance(second, Prediction)
    assert isinstance(other, Prediction)
    np.testing.assert_array_equal(first.weights, second.weights)
    assert "references" not in second.seconds


def test_the_next_process_reads_the_references_from_the_cache(own_references: list[str], tmp_path: Path) -> None:
    def ask(port: Port = PORT) -> Prediction:
        inference._BANKS.clear()  # as in another process
        prediction = answer(port, SAMPLE.image, SAMPLE.question)
        assert isinstance(prediction, Prediction)
        return dataclasses.replace(prediction, seconds={})

    cache = tmp_path / "cache" / "r2t2" / "references"
    collected = ask()
    (entry,) = cache.iterdir()
    np.testing.assert_equal(vars(ask()), vars(collected))  # neighbors, weights, path and losses to the last bit
    assert len(own_references) == 1
    (entry / "routing.npy").write_bytes(b"damaged")
    np.testing.assert_equal(vars(ask()), vars(collected))
    assert len(own_references) == 2
    ask()
    assert len(own_references) == 2  # the damaged entry was replaced
    for i in range(5):
        ask(dataclasses.replace(PORT, fingerprint=f"other-{i}"))
    assert len(own_references) == 7 and len(list(cache.iterdir())) == 4
    ask(dataclasses.replace(PORT, fingerprint="other-4"))
    assert len(own_references) == 7  # the latest entries are kept


def test_a_cache_that_cannot_be_written_is_not_used(own_references: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    for _ in range(2):
        inference._BANKS.clear()
        answer(PORT, SAMPLE.image, SAMPLE.question)
    assert len(own_references) == 2


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"image": "no/such.png"}, "cannot read image no/such.png: it does not exist"),
        ({"image": np.zeros((4, 4), np.uint8)}, "uint8 pixels"),
        ({"image": np.zeros((4, 4, 3))}, "not float64"),
        ({"question": " \n"}, "question is empty"),
        ({"question": []}, "no question"),
        ({"question": None}, r"question is of type NoneType; give a text or a list .*order is port, image, question\)"),
        ({"question": ["What is left?", 3]}, "a question is of type int; give a text"),
        ({"bank": ["out/bank"]}, "bank is of type list; give a ReferenceBank or its folder"),
        ({"strategy": ["ngd"]}, r"a strategy is one name, such as 'base', not \['ngd'\]"),
        ({"seed": "x"}, "seed is 'x'; it must be a whole number"),
        ({"max_new_tokens": "8"}, "max_new_tokens is '8'; it must be a whole number of at least 1"),
        ({"beams": "3"}, "3 beams; 1 decodes greedily"),
        ({"question": ["What is left?"] * 2, "image": [SAMPLE.image] * 3}, "3 images for 2 questions"),
        ({"strategy": "magic"}, "unknown strategy 'magic'.*ngd"),
        ({"strategy": "oracle"}, "reads the test samples' answers"),
        ({"strategy": "task_routing"}, "needs the task routing of every query"),
        ({"preset": "none"}, "unknown preset 'none'.*paper"),
        ({"bank": "no/bank"}, "no/bank"),
        ({"routing": [0.5, 0.5]}, r"have shape \[2\].*\[2\]\[3\].*left, middle, right"),
        ({"routing": [[1, 0, 0]] * 3}, r"have shape \[3, 3\]"),
        ({"routing": [[1, 0], [1, 0, 0]]}, "must be numbers"),
        ({"routing": ["a", "b", "c"]}, "must be numbers"),
        ({"routing": [float("nan"), 0, 1]}, "NaN"),
        ({"routing": [1, 0, 0], "strategy": "ngd"}, "one or the other"),
    ],
)
def test_bad_input_is_refused_with_its_cause(settings: dict[str, Any], cause: str) -> None:
    arguments = {"image": SAMPLE.image, "question": SAMPLE.question, "bank": BANK} | settings
    with pytest.raises(R2T2Error, match=cause):
        answer(PORT, arguments.pop("image"), arguments.pop("question"), **arguments)


def test_a_corrupt_image_is_refused(tmp_path: Path) -> None:
    for name, content in (("empty.png", b""), ("text.png", b"not an image")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(R2T2Error, match=f"cannot read image .*{name}"):
            answer(PORT, tmp_path / name, SAMPLE.question, bank=BANK)


def test_the_bank_of_another_model_is_refused() -> None:
    port: Port = dataclasses.replace(PORT, fingerprint="another")
    with pytest.raises(R2T2Error, match="made with model 'toy-1'"):
        answer(port, SAMPLE.image, SAMPLE.question, bank=BANK)


SETTINGS = {"neighborhood": {"k": 7}}


@pytest.mark.parametrize(
    ("method", "preset", "k", "name"),
    [
        (None, "paper", 5, "paper"),
        ("ngd", Preset.from_mapping(SETTINGS), 7, "custom"),
        ("ngd", SETTINGS, 7, "custom"),
        ("ngd", Preset(), 5, "paper"),
        (strategy("ngd", Preset.from_mapping(SETTINGS)), None, 7, "custom"),
    ],
)
def test_strategies_and_presets_are_taken_by_name_and_by_value(method: Any, preset: Any, k: int, name: str) -> None:
    chosen, shown = _method(toy(), method, preset)
    assert (chosen.name, chosen.selector.k, shown) == ("ngd", k, name)
    with pytest.raises(R2T2Error, match="a Strategy has its settings"):
        _method(toy(), strategy("ngd"), "paper")
