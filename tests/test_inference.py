"""One question at a time, on the toy port, beside the evaluation that it is a small case of."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from r2t2_jax import answer
from r2t2_jax import inference as session
from r2t2_jax.contract import Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.inference import Prediction
from r2t2_jax.methods import find_preset, strategy
from r2t2_jax.metrics import get_metric
from tests.toy_port import make_samples, toy

METRIC = get_metric("exact_match")
TESTS = make_samples(6, seed=1, told=0.3)
PORT = toy()
BANK = collect_bank(PORT, make_samples(40, seed=2, told=0.9), METRIC)
ONE = TESTS[0]


@pytest.fixture
def own_references(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def load_dataset(name: str, split: str) -> Any:
        asked.append(f"{name}/{split}")
        return make_samples(40, seed=2, told=0.9)

    monkeypatch.setattr("r2t2_jax.evaluation.setup.load_dataset", load_dataset)
    monkeypatch.setattr("r2t2_jax.evaluation.setup.registered", lambda group: ["toy"])
    monkeypatch.setattr(session, "_BANKS", {})
    return asked


def test_answers_are_those_of_the_evaluation() -> None:
    plan = strategy("ngd", find_preset("toy", PORT.presets))
    questions = encode_questions(PORT, TESTS)
    base, ngd = evaluate(PORT, BANK, questions, {"base": strategy("base"), "ngd": plan}, METRIC)
    found = answer(PORT, [sample.image for sample in TESTS], [sample.question for sample in TESTS], bank=BANK)
    assert isinstance(found, list)
    assert [one.before for one in found] == base.predictions
    assert [one.after for one in found] == ngd.predictions
    assert any(one.before != one.after for one in found)
    for one, weights, path, chosen, kernel in zip(
        found, ngd.weights, ngd.path, ngd.neighbors, ngd.kernel_weights, strict=True
    ):
        np.testing.assert_array_equal(one.weights, weights)
        np.testing.assert_array_equal(one.path, path)
        assert [neighbor.question for neighbor in one.neighbors] == [BANK.records[j]["question"] for j in chosen]
        np.testing.assert_allclose([neighbor.share for neighbor in one.neighbors], kernel / kernel.sum(), rtol=1e-6)
        assert one.evaluations == ngd.evaluations
        assert one.preset == "toy"


def test_a_question_alone_is_one_answer_and_an_image_may_serve_several(tmp_path: Path) -> None:
    Image.fromarray(ONE.image).save(tmp_path / "one.png")
    pixels = answer(PORT, ONE.image, ONE.question, bank=BANK)
    assert isinstance(pixels, Prediction)
    for image in (tmp_path / "one.png", str(tmp_path / "one.png"), Image.fromarray(ONE.image)):
        again = answer(PORT, image, ONE.question, bank=BANK)
        assert isinstance(again, Prediction)
        np.testing.assert_array_equal(again.weights, pixels.weights)
    several = answer(PORT, ONE.image, [ONE.question, "What is left?"], bank=BANK)
    assert isinstance(several, list)
    np.testing.assert_array_equal(several[0].weights, pixels.weights)


def test_strategies_without_references_need_no_bank(own_references: list[str]) -> None:
    for name in ("base", "uniform", "best_of_n"):
        alone = answer(PORT, ONE.image, ONE.question, strategy=name)
        beside = answer(PORT, ONE.image, ONE.question, strategy=name, bank=BANK)
        assert isinstance(alone, Prediction)
        assert isinstance(beside, Prediction)
        assert (alone.before, alone.after, alone.evaluations) == (beside.before, beside.after, beside.evaluations)
        np.testing.assert_array_equal(alone.path, beside.path)
    assert own_references == []


def test_weights_given_by_hand_are_the_ones_answered_with() -> None:
    asked = PORT.model.spec.experts.index(ONE.experts[0])
    row = np.eye(3)[asked].tolist()
    for routing in (row, [row, row]):
        found = answer(PORT, ONE.image, ONE.question, routing=routing)
        assert isinstance(found, Prediction)
        assert found.after == ONE.answers[0]
        assert found.strategy == "by hand"
        np.testing.assert_array_equal(found.weights, [row, row])
        assert found.neighbors == ()


def test_a_port_s_own_references_are_collected_once(own_references: list[str]) -> None:
    first = answer(PORT, ONE.image, ONE.question)
    second = answer(PORT, ONE.image, ONE.question)
    other = answer(dataclasses.replace(PORT, fingerprint="toy-2"), ONE.image, ONE.question)
    assert own_references == ["toy/reference", "toy/reference"]
    assert isinstance(first, Prediction)
    assert isinstance(second, Prediction)
    assert isinstance(other, Prediction)
    np.testing.assert_array_equal(first.weights, second.weights)
    assert "references" not in second.seconds


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"image": "no/such.png"}, "cannot read image no/such.png: it does not exist"),
        ({"image": np.zeros((4, 4), np.uint8)}, "uint8 pixels"),
        ({"image": np.zeros((4, 4, 3))}, "not float64"),
        ({"question": " \n"}, "question is empty"),
        ({"question": []}, "no question"),
        ({"question": ["What is left?"] * 2, "image": [ONE.image] * 3}, "3 images for 2 questions"),
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
    given = {"image": ONE.image, "question": ONE.question, "bank": BANK} | settings
    with pytest.raises(R2T2Error, match=cause):
        answer(PORT, given.pop("image"), given.pop("question"), **given)


def test_a_corrupt_image_is_refused(tmp_path: Path) -> None:
    for name, content in (("empty.png", b""), ("text.png", b"not an image")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(R2T2Error, match=f"cannot read image .*{name}"):
            answer(PORT, tmp_path / name, ONE.question, bank=BANK)


def test_another_model_s_bank_is_refused() -> None:
    port: Port = dataclasses.replace(PORT, fingerprint="another")
    with pytest.raises(R2T2Error, match="made with model 'toy-1'"):
        answer(port, ONE.image, ONE.question, bank=BANK)
