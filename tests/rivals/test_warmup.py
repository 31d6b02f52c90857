"""Test-Time Warmup: each part against another implementation, and that samples are independent."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.metrics import get_metric
from r2t2_jax.rivals.warmup import Warmup, best_fit, draw_caption, train
from r2t2_jax.runtime.pytrees import partition, select_params
from tests.toy import MODEL, A, toy_params, toy_queries
from tests.toy_port import make_samples, toy

METRIC = get_metric("exact_match")
FAST = Warmup(0.3, batch=3)


def features(number=0):
    return jax.tree.map(lambda leaf: leaf[number], toy_queries()[0].features)


def test_cold_captions_are_the_greedy_answer():
    draw = jax.jit(partial(draw_caption, MODEL), static_argnums=3)
    greedy = jax.jit(MODEL.generate, static_argnums=3)
    for number in range(5):
        cold = draw(toy_params(), features(number), 1e-4, A, jax.random.key(number))
        expected = MODEL.as_answer(greedy(toy_params(), features(number), None, A))
        np.testing.assert_array_equal(cold["mask"], expected["mask"])
        np.testing.assert_array_equal(cold["tokens"] * cold["mask"], expected["tokens"] * expected["mask"])


def test_captions_are_drawn_at_the_temperature():
    given = toy_params(), features()
    draw = jax.jit(jax.vmap(lambda given, key: draw_caption(MODEL, *given, 2.0, 1, key)["tokens"][0], (None, 0)))
    drawn = draw(given, jax.random.split(jax.random.key(0), 20000))
    any_word = MODEL.as_answer(jnp.zeros(1, jnp.int32))
    logprobs = np.asarray(jax.jit(MODEL.token_logprobs)(*given, None, any_word)[0][0])
    expected = np.exp(logprobs / 2) / np.exp(logprobs / 2).sum()
    np.testing.assert_allclose(np.bincount(np.asarray(drawn), minlength=11) / 20000, expected, atol=0.015)


def test_the_caption_with_the_largest_gain_from_the_image_is_chosen():
    candidates = MODEL.as_answer  # of one word each
    answers = jax.vmap(candidates)(jnp.arange(1, 9)[:, None])
    logprobs = jax.jit(MODEL.answer_logprobs)
    gain = np.asarray(logprobs(toy_params(), features(0), None, answers)) - np.asarray(
        logprobs(toy_params(), features(1), None, answers)
    )
    best = best_fit(MODEL, toy_params(), features(0), features(1), answers)
    assert int(best["tokens"][0]) == 1 + int(gain.argmax())


def test_training_is_adamw():
    params = toy_params()
    start, join = partition(params, select_params(params, ["head", "embedding"]))
    rng = np.random.default_rng(0)
    prompts = jax.tree.map(lambda leaf: leaf[:4], toy_queries()[0].features)
    captions = {"tokens": jnp.asarray(rng.integers(1, 11, (4, A))), "mask": jnp.ones((4, A))}
    warmup = Warmup(0.02, batch=2, epochs=2)
    key = jax.random.key(3)
    result = jax.jit(lambda start: train(warmup, MODEL, start, join, prompts, captions, key))(start)

    @jax.jit
    @jax.grad
    def slope(leaves, rows):
        losses = [
            MODEL.answer_loss(join(leaves), *jax.tree.map(lambda leaf, row=row: leaf[row], (prompts, None, captions)))
            for row in rows
        ]
        return sum(losses) / 2

    leaves = [np.asarray(leaf, np.float64) for leaf in start]
    first, second = ([np.zeros_like(leaf) for leaf in leaves] for _ in range(2))
    order = [jax.random.permutation(one, 4).reshape(2, 2) for one in jax.random.split(key, 2)]
    for step, rows in enumerate(np.concatenate(order), start=1):
        gradients = slope([jnp.asarray(leaf, jnp.float32) for leaf in leaves], jnp.asarray(rows))
        for i, gradient in enumerate(np.asarray(g, np.float64) for g in gradients):
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            moved = (first[i] / (1 - 0.9**step)) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
            leaves[i] = leaves[i] - 0.02 * (moved + 0.01 * leaves[i])
    for a, b in zip(result, leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.fixture(scope="module")
def evaluation():
    port = toy()
    bank = collect_bank(port, make_samples(40, seed=1, hinted=0.5), METRIC)
    questions = encode_questions(port, make_samples(6, seed=2, hinted=0.5))
    baselines = {"warmup": FAST, "still": dataclasses.replace(FAST, learning_rate=0.0)}
    return Evaluator.create(port, bank, baselines, METRIC).prepare_batch(questions)


def test_parameters_are_as_before_after_every_image(evaluation):
    before = jax.tree.map(np.array, evaluation.port.params)
    whole = jax.tree.map(np.asarray, evaluation.answer("warmup", np.arange(6)))
    turned = jax.tree.map(np.asarray, evaluation.answer("warmup", np.arange(6)[::-1]))
    jax.tree.map(np.testing.assert_array_equal, evaluation.port.params, before)
    np.testing.assert_array_equal(turned["tokens"], whole["tokens"][::-1])
    np.testing.assert_array_equal(turned["weights"], whole["weights"][::-1])
    assert (whole["evaluations"] == 3 * 10 * (2 + 2) + 2 * 2 * 3 + 1).all()


def test_at_learning_rate_zero_it_is_the_untouched_model(evaluation):
    still = jax.tree.map(np.asarray, evaluation.answer("still", np.arange(6)))
    np.testing.assert_allclose(still["weights"], evaluation.questions.queries.routing, atol=1e-6)
    expected = [
        jax.jit(evaluation.port.model.generate, static_argnums=3)(
            evaluation.port.params, jax.tree.map(lambda leaf, i=i: leaf[i], evaluation.queries.features), None, 2
        )
        for i in range(6)
    ]
    np.testing.assert_array_equal(still["tokens"], expected)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"captioning": None}, "has no prompts for images"),
        ({"adapted": ("nowhere",)}, "no parameters below nowhere"),
        ({"prompts": ("What is left?",)}, "1 prompts; they must fill batches of 3"),
    ],
)
def test_a_port_without_captioning_is_refused(evaluation, change, cause):
    port = evaluation.port
    if "captioning" in change:
        port = dataclasses.replace(port, **change)
    else:
        port = dataclasses.replace(port, captioning=dataclasses.replace(port.captioning, **change))
    with pytest.raises(R2T2Error, match=cause):
        dataclasses.replace(evaluation, port=port).answer("warmup", np.arange(2))


def test_a_negative_learning_rate_is_refused():
    with pytest.raises(R2T2Error, match=r"learning rate -1\.0 of warmup"):
        Warmup(-1.0)
