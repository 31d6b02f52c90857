"""Questions and banks as `r2t2 diagnose` and `r2t2 tune` open them."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import r2t2_jax.plugins
from r2t2_jax.bank.inspect import find_leakage
from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation import setup
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.setup import check_no_overlap, metric_for, open_bank, open_questions
from r2t2_jax.metrics import get_metric
from tests.toy_port import make_samples, toy

METRIC = get_metric("exact_match")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A user's file of thirty toy samples, six of them in the split `validation`."""
    lines = []
    for i, sample in enumerate(make_samples(30, seed=1, hinted=0.6)):
        Image.fromarray(sample.image).save(tmp_path / f"{i}.png")
        split = "validation" if i % 5 == 0 else "rest"
        lines.append({"image": f"{i}.png", "question": sample.question, "answer": sample.answers[0], "split": split})
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_the_default_split_is_validation_and_for_a_file_all_lines(questions: Path) -> None:
    assert {sample.split for sample in open_questions("pocket", None, 3, 0)} == {"validation"}
    assert len(open_questions(str(questions), None, None, 0)) == 30
    assert len(open_questions(str(questions), "validation", None, 0)) == 6


def test_the_default_metric_is_the_official_one() -> None:
    assert metric_for("pocket", "") is METRIC
    assert metric_for("aokvqa", "") is not METRIC
    assert metric_for("aokvqa", "exact_match") is METRIC


def test_collected_references_are_judged_by_the_metric_of_their_own_set(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = make_samples(12, seed=1, hinted=0.6)
    monkeypatch.setattr(setup, "reference_set", lambda port: "toy")
    monkeypatch.setattr(setup, "load_dataset", lambda name, split: samples)
    own, others = collect_bank(toy(), samples, METRIC, keep_wrong=True), {"gqa": lambda prediction, sample: 0.0}
    assert 0 < own.right.sum() < len(own)
    np.testing.assert_array_equal(open_bank(toy(), None, others, [], keep_wrong=True).right, own.right)
    assert open_bank(toy(), None, {"toy": lambda prediction, sample: 1.0}, [], keep_wrong=True).right.all()


def test_a_bank_on_disk_equals_one_in_memory(questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(r2t2_jax.plugins, "load", lambda _: toy())
    build = ["bank", "build", "--model", "toy", "--dataset", str(questions), "--split", "rest"]
    assert main([*build, "--out", str(tmp_path / "bank")]) == 0
    questions_of_split = open_questions(str(questions), "validation", None, 0)
    bank = open_bank(toy(), tmp_path / "bank", {}, questions_of_split)
    memory = collect_bank(toy(), open_questions(str(questions), "rest", None, 0), METRIC)
    assert len(bank) == len(memory) < 24  # without the wrongly answered

    places = {record["id"]: i for i, record in enumerate(memory.records)}
    order = np.array([places[record["id"]] for record in bank.records])
    features, expected = bank.samples(np.arange(len(bank))), memory.samples(order)
    jax.tree.map(np.testing.assert_array_equal, features, expected)
    np.testing.assert_array_equal(bank.routing, np.asarray(memory.routing)[order])

    with pytest.raises(R2T2Error, match=f"{len(bank)} of 30 questions are also references in the bank"):
        open_bank(toy(), tmp_path / "bank", {}, open_questions(str(questions), None, None, 0))


def test_a_reference_under_another_id_is_found_by_its_image_and_question() -> None:
    samples = make_samples(6, seed=1, hinted=1)
    bank = collect_bank(toy(), samples, METRIC)
    same = dataclasses.replace(samples[0], id="other-1", question=samples[0].question.upper() + " ")
    other_image = dataclasses.replace(samples[1], id="other-2", image=np.zeros_like(samples[1].image))
    question = "What is right?" if samples[2].category == "left" else "What is left?"
    other_question = dataclasses.replace(samples[2], id="other-3", question=question)
    same_id = dataclasses.replace(samples[3], image=np.zeros_like(samples[3].image))
    assert check_no_overlap(bank, [other_image, other_question]) == []
    assert check_no_overlap(bank, [other_image, same, same_id], allow=True) == [same, same_id]
    with pytest.raises(R2T2Error, match=r"1 of 2 questions are also references .*first 'other-1'.*--allow-leakage"):
        check_no_overlap(bank, [other_image, same])


def test_a_question_without_an_image_is_compared_by_text_and_options() -> None:
    references = [dataclasses.replace(sample, options=("a", "b")) for sample in make_samples(6, seed=1, hinted=1)]
    bank = collect_bank(toy(), references, METRIC)
    records = [record | {"image_sha256": "", "question": f"q{i}?"} for i, record in enumerate(bank.records)]
    bank = dataclasses.replace(bank, records=records)
    same = dataclasses.replace(references[0], id="other-1", image=None, question="Q0")
    other_options = dataclasses.replace(same, options=("a", "c"))
    other_text, with_context = dataclasses.replace(same, question="q9"), dataclasses.replace(same, context="a passage")
    questions = [other_options, other_text, with_context, same]
    assert check_no_overlap(bank, questions, allow=True) == [same]
    assert find_leakage(bank, questions).leaks == ("other-1",)
