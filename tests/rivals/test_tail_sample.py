"""Tail sampling: the head stays, the tail is drawn by probability, and answers vote."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import evaluate_batch
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.metrics import get_metric
from r2t2_jax.rivals.tail_sample import TailSample, sampled, vote
from r2t2_jax.routing import RoutingSpec
from tests.routes.test_recording import language_model
from tests.toy_port import make_samples, toy

SPEC = RoutingSpec(("a", "b", "c", "d"), 1)
LOGITS = jnp.log(jnp.asarray([[0.6, 0.3, 0.09, 0.01]]))


def test_the_head_stays_and_the_tail_follows_the_probabilities():
    keys = jax.random.split(jax.random.key(0), 2000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: sampled(SPEC, key, LOGITS, 1, 1, 1.0)))(keys))[:, 0]
    assert draws[:, 0].all()
    assert (draws.sum(axis=-1) == 2).all()
    np.testing.assert_allclose(draws[:, 1:].mean(axis=0), [0.75, 0.225, 0.025], atol=0.03)
    greedy = jax.jit(lambda key: sampled(SPEC, key, LOGITS, 1, 2, 1e-4))(keys[0])
    assert greedy[0].tolist() == [True, True, True, False]


def test_each_group_has_its_head_and_tail():
    groups = RoutingSpec(("a", "b", "c", "d", "e", "f"), 1, ((0, 2, 4), (1, 3, 5)))
    logits = jnp.asarray([[0.0, 5.0, 3.0, 0.0, 0.0, -jnp.inf]])
    draw = np.asarray(sampled(groups, jax.random.key(1), logits, 1, 1, 1.0))[0]
    assert draw[2]
    assert draw[[0, 4]].sum() == 1
    assert draw[[1, 3, 5]].tolist() == [True, True, False]


def test_the_most_frequent_answer_wins_and_the_first_of_equal_ones():
    assert vote(["red", "blue", "green", "blue"]) == "blue"
    assert vote(["red", "blue"]) == "red"


def answers(port, method, samples, key=0):
    evaluator = Evaluator.create(port, None, {"tail_sample": method}, get_metric("exact_match"), key)
    (result,) = evaluate_batch(evaluator.prepare_batch(encode_questions(port, samples)))
    return result


def test_toy_answers_are_the_vote_of_the_weights_by_hand():
    """With one tail expert of three the answer is the word of the head, or of both if they agree."""
    port, samples = toy(), make_samples(4, seed=0, hinted=1.0)
    result = answers(port, TailSample(5, 1, 1), samples)
    heads = [sample.image[0, np.asarray(result.router_weights[i][0]).argmax(), 0] for i, sample in enumerate(samples)]
    assert result.predictions == [("red", "green", "blue", "black", "white")[word] for word in heads]
    assert result.evaluations == 6


@pytest.mark.slow
def test_a_language_model_samples_at_its_last_token():
    port, samples = language_model(), [replace(each, answers=()) for each in make_samples(2, seed=0, hinted=0.5)]
    result = answers(port, TailSample(2, 1), samples)
    assert len(result.predictions) == 2
    assert result.evaluations == 3
    own = answers(port, TailSample(1, 1), samples)
    greedy = answers(port, TailSample(2, 1, temperature=1e-6), samples)
    assert greedy.predictions == own.predictions


@pytest.mark.parametrize("settings", [{"runs": 0}, {"head": -1}, {"tail": 0}, {"temperature": 0.0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(R2T2Error, match=f"tail_sample.{next(iter(settings))}"):
        TailSample(**settings)
