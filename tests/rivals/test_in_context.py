"""Examples before the question, and models that cannot read them."""

import dataclasses

import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.metrics import get_metric
from r2t2_jax.rivals.in_context import InContext, with_examples
from tests.toy_port import ToyProcessor, make_samples, toy

METRIC = get_metric("exact_match")


class Listening(ToyProcessor):
    """Records its questions; reads the last word, as the toy does."""

    def __init__(self):
        self.questions = []

    def prepare(self, params, samples):
        self.questions.extend(sample.question for sample in samples)
        return super().prepare(params, samples)


class Cutting(ToyProcessor):
    """Reads three words and no more."""

    def fits(self, question):
        return len(question.split()) <= 3


def run(processor):
    port = dataclasses.replace(toy(), processor=processor)
    bank = collect_bank(port, make_samples(60, seed=1, hinted=0.5), METRIC)
    questions = encode_questions(port, make_samples(7, seed=2, hinted=0.5))
    return bank, questions, evaluate(port, bank, questions, {"in_context": InContext()}, METRIC)[0]


def test_the_nearest_example_precedes_the_question():
    neighbors = [{"question": "near ?", "answer": "a"}, {"question": "far ?", "answer": "b"}]
    assert with_examples("mine ?", neighbors) == "far ? b\nnear ? a\nmine ?"
    assert with_examples("mine ?", []) == "mine ?"


def test_the_prompt_contains_the_neighbors():
    listening = Listening()
    bank, questions, outcome = run(listening)
    for i, sample in enumerate(questions.samples):
        near = [bank.records[j] for j in outcome.neighbors[i]]
        assert with_examples(sample.question, near) in listening.questions
    assert outcome.evaluations == 1
    assert outcome.neighbors.shape == (7, 5)
    assert np.isfinite(outcome.weights).all()


def test_a_model_that_cuts_the_prompt_is_refused():
    with pytest.raises(R2T2Error, match=r"toy cannot read \d+ words"):
        run(Cutting())
