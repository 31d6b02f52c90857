"""The vote of the neighbors and LAME, by hand."""

import jax
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.methods import baseline, find_preset
from r2t2_jax.metrics import get_metric
from r2t2_jax.rivals.neighbor_vote import corrected, vote
from tests.toy_port import WORDS, make_samples, toy

METRIC = get_metric("exact_match")


def records(*answers):
    return [{"answer": answer} for answer in answers]


@pytest.mark.parametrize(
    ("answers", "weights", "expected"),
    [
        (("red", "blue", "blue"), (0.5, 0.3, 0.3), "blue"),  # a light majority outweighs the nearest
        (("red", "blue", "blue"), (0.7, 0.3, 0.3), "red"),
        (("red", "blue"), (0.5, 0.5), "red"),  # the nearest of equals
        (("red", "blue"), (0.0, 0.0), "red"),
    ],
)
def test_the_answer_of_largest_weight_is_chosen(answers, weights, expected):
    assert vote(records(*answers), np.array(weights)) == expected


def test_a_bank_without_answers_as_text_is_refused():
    with pytest.raises(R2T2Error, match="needs the answers of the references as text"):
        vote([{}], np.ones(1))


@pytest.mark.parametrize(
    ("probabilities", "weights", "expected"),
    [
        ((0.6, 0.3, 0.3, 0.1), (0.2, 0.2, 0.2), "red"),  # ln 0.6 = -0.51 against ln 0.3 + 0.4 = -0.80
        ((0.6, 0.3, 0.3, 0.1), (0.4, 0.4, 0.9), "blue"),  # ln 0.3 + 0.8 = -0.40; ln 0.1 + 0.9 = -1.40
        ((0.6, 0.3, 0.3, 0.1), (0.0, 0.0, 0.0), "red"),
    ],
)
def test_lame_adds_the_neighbors_weights_to_the_log_probabilities(probabilities, weights, expected):
    texts = ("red", "blue", "blue", "green")
    assert corrected(texts, np.log(probabilities), np.array(weights)) == expected
    assert corrected(("blue", *texts[1:]), np.log(probabilities), np.zeros(3)) == "blue"  # its own answer, counted once


def test_lame_answers_as_written_out():
    port = toy()
    bank = collect_bank(port, make_samples(60, seed=1, hinted=0.5), METRIC)
    questions = encode_questions(port, make_samples(6, seed=2, hinted=0.3))
    (result,) = evaluate(port, bank, questions, {"lame": baseline("lame", find_preset("toy", port.presets))}, METRIC)
    for i, row in enumerate(result.neighbors):
        features = jax.tree.map(lambda leaf, i=i: leaf[i], questions.queries.features)
        logprobs = dict(zip(WORDS, np.asarray(port.model._logprobs(port.params, features, None)).tolist(), strict=True))
        answers = [bank.records[j]["answer"] for j in row]
        own = max(logprobs, key=logprobs.get)
        scores = {text: logprobs[text] for text in [own, *answers]}
        for text, weight in zip(answers, result.kernel_weights[i].tolist(), strict=True):
            scores[text] += weight
        assert scores[result.predictions[i]] == pytest.approx(max(scores.values()), abs=1e-5)
    assert result.evaluations == 2
    np.testing.assert_array_equal(result.weights, questions.queries.routing)
