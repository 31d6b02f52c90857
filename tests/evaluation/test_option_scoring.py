"""Choosing the most probable option: against the loss of each answer alone, and against generation."""

import dataclasses

import jax
import numpy as np
import pytest

from r2t2_jax.contract import Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.option_scoring import candidates_of, choose_options, option_logprobs
from r2t2_jax.method.forward import generate_batch
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import load
from r2t2_jax.routing import Routing
from tests.toy_port import WORDS, make_samples, toy


def with_options(samples: list[Sample], *counts: int) -> list[Sample]:
    """The right answer among the first words, as many as the counts say in turn."""
    chosen = []
    for i, sample in enumerate(samples):
        others = [word for word in WORDS if word != sample.answers[0]]
        options = (*others[: counts[i % len(counts)] - 1], sample.answers[0])
        chosen.append(dataclasses.replace(sample, options=options, style="word"))
    return chosen


def test_each_option_is_worth_what_its_answer_alone_is() -> None:
    port, samples = toy(), with_options(make_samples(12, seed=1, told=0.5), 2, 4, 3)
    features = encode_questions(port, samples).queries.features
    rng = np.random.default_rng(0)
    routing = Routing(rng.dirichlet(np.ones(3), (len(samples), 2)).astype(np.float32))
    for weights in (None, routing):
        found = option_logprobs(port, features, weights, samples)
        for i, sample in enumerate(samples):
            one = jax.tree.map(lambda leaf, i=i: leaf[i], (features, weights))
            losses = [
                port.model.answer_loss(port.params, *one, port.processor.answer_ids([option])[0])
                for option in sample.options
            ]
            np.testing.assert_allclose(found[i], -np.array(losses), rtol=1e-6)
        best = [sample.options[int(values.argmax())] for sample, values in zip(samples, found, strict=True)]
        assert choose_options(port, features, weights, samples) == best


def test_with_every_word_offered_it_is_what_would_be_generated() -> None:
    port = toy()
    samples = [dataclasses.replace(one, options=WORDS, style="word") for one in make_samples(20, seed=2, told=0.7)]
    features = encode_questions(port, samples).queries.features
    generated = port.processor.decode(np.asarray(generate_batch(port, features, None)))
    assert choose_options(port, features, None, samples) == generated


def test_pocket_chooses_among_colours_and_is_scored_by_the_same_metric() -> None:
    port, metric = load("pocket:balanced"), get_metric("exact_match")
    asked = [sample for sample in load_dataset("pocket", "test", 150) if sample.category == "color"][:8]
    colors = ("red", "green", "blue", "yellow")
    samples = [dataclasses.replace(one, options=tuple(dict.fromkeys((*colors, *one.answers)))) for one in asked]
    questions = encode_questions(port, samples)
    chosen = choose_options(port, questions.queries.features, None, samples)
    generated = port.processor.decode(np.asarray(generate_batch(port, questions.queries.features, None)))
    for sample, choice, text in zip(samples, chosen, generated, strict=True):
        assert choice in sample.options
        if text in sample.options:  # one token and the end of turn, so the most probable of all is that of these too
            assert metric(choice, sample) == metric(text, sample)


def test_what_the_candidates_are() -> None:
    sample = dataclasses.replace(make_samples(1, seed=0, told=1.0)[0], options=("x", "y"))
    assert candidates_of(dataclasses.replace(sample, style="word")) == ("x", "y")
    assert candidates_of(dataclasses.replace(sample, style="letter")) == ("A", "B")
    with pytest.raises(R2T2Error, match="sample '0-0' has 0 options"):
        candidates_of(dataclasses.replace(sample, options=()))
