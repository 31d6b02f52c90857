"""Strategies read bounded losses or cross-entropies from the atlas: of neighbors, of all references, or predicted."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from r2t2_jax.bank.atlas import Atlas
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import _reroute_on_cpu
from r2t2_jax.methods import baseline, strategy
from r2t2_jax.metrics import get_metric
from tests.toy_port import EXPERTS, SPEC, make_samples, toy

METRIC, PORT = get_metric("exact_match"), toy()
BOUNDED = Preset.from_mapping({"atlas.k": 2, "atlas.proximal_weight": 0.0, "generation.max_new_tokens": 2})
NATS = BOUNDED.with_settings({"atlas.loss": "cross_entropy", "atlas.temperature": 0.2})
POINTS = np.repeat(np.eye(3, dtype=np.float32)[:, None], 2, axis=1)  # every expert alone, in both layers
# Point 0 is certain for half of the references and hopeless for the others, point 1 middling for all, point 2 poor.
EVEN, ODD = np.array([0, 140, 200], np.uint8), np.array([255, 140, 200], np.uint8)
MIDDLING = -np.log(1 - 140 / 255)
HALF_HOPELESS = np.log(510) / 2


def with_table(bank, even=EVEN, odd=ODD):
    """The bank with an atlas in which references of one question alternate between two rows."""
    losses = np.zeros((len(bank), 3), np.uint8)
    for topic in EXPERTS:
        mine = [i for i, record in enumerate(bank.records) if record["category"] == topic]
        losses[mine[::2]], losses[mine[1::2]] = even, odd
    ids = tuple(str(record["id"]) for record in bank.records)
    return dataclasses.replace(bank, atlas=Atlas(POINTS, losses, None, PORT.fingerprint, SPEC.experts, ids))


@pytest.fixture(scope="module")
def bank():
    samples = make_samples(90, seed=1, hinted=0.5)
    references = {topic: [sample for sample in samples if sample.category == topic][:20] for topic in EXPERTS}
    return with_table(collect_bank(PORT, list(itertools.chain(*references.values())), METRIC, keep_wrong=True))


@pytest.fixture(scope="module")
def questions():
    return encode_questions(PORT, make_samples(7, seed=2, hinted=0.3))


def evaluate_methods(bank, questions, **methods):
    evaluation = Evaluator.create(PORT, bank, methods, METRIC).prepare_batch(questions)
    rows = np.arange(len(questions.samples))
    return {name: jax.tree.map(np.asarray, evaluation.answer(name, rows)) for name in methods}, evaluation


def test_half_hopeless_is_better_than_middling_for_the_one_loss_and_worse_for_the_other(bank, questions):
    assert 0.5 < 140 / 255 and MIDDLING < HALF_HOPELESS
    presets = {"bounded": BOUNDED, "nats": NATS}
    for name, chosen in {"atlas_argmin": (0, 1), "best_fixed": (0, 1), "atlas_top8": (0, 1)}.items():
        make = baseline if name == "atlas_top8" else strategy
        methods = {kind: make(name, p.with_settings({"atlas.temperature": 1e-3})) for kind, p in presets.items()}
        answered, _ = evaluate_methods(bank, questions, **methods)
        for kind, point in zip(presets, chosen, strict=True):
            np.testing.assert_allclose(answered[kind]["weights"], np.broadcast_to(POINTS[point], (7, 2, 3)), atol=1e-5)


def test_rows_are_read_before_they_are_averaged(bank, questions):
    _, evaluation = evaluate_methods(
        bank, questions, atlas=strategy("atlas", NATS), best_fixed=strategy("best_fixed", NATS)
    )
    near = evaluation.neighbors.references("atlas", np.arange(7))
    raw = bank.atlas.losses[evaluation.neighbors.indices("atlas", np.arange(7))]  # [B, K, G]
    exact = -np.log1p(-np.minimum(raw, 254.5) / 255)
    np.testing.assert_allclose(near.point_losses, exact, rtol=1e-5)
    fixed = evaluation.neighbors.references("best_fixed", np.arange(2)).point_losses
    expected = [HALF_HOPELESS, MIDDLING, -np.log(1 - 200 / 255)]  # and not -log of the mean of 1 - b
    np.testing.assert_allclose(fixed, np.broadcast_to(expected, (2, 1, 3)), rtol=1e-5)


def test_the_soft_minimum_in_nats_is_the_formula(bank, questions):
    answered, evaluation = evaluate_methods(bank, questions, atlas=strategy("atlas", NATS))
    references = evaluation.neighbors.references("atlas", np.arange(7))
    weights, losses = np.asarray(references.weights, np.float64), np.asarray(references.point_losses, np.float64)
    mean = np.einsum("bk,bkg->bg", weights, losses) / weights.sum(axis=1, keepdims=True)
    shares = np.exp(-mean / 0.2) / np.exp(-mean / 0.2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answered["atlas"]["weights"], np.einsum("bg,gle->ble", shares, POINTS), rtol=1e-4)


def test_the_network_guesses_in_the_units_it_was_fitted_in(bank, questions):
    methods = {"bounded": strategy("atlas_mlp", BOUNDED), "nats": strategy("atlas_mlp", NATS)}
    _, evaluation = evaluate_methods(bank, questions, **methods)
    guessed = {
        name: np.asarray(evaluation.neighbors.references(name, np.arange(7)).point_losses)[:, 0] for name in methods
    }
    # Every kind of question has as many rows of the one sort as of the other: a guess is the mean of the two.
    np.testing.assert_allclose(guessed["bounded"], np.tile([0.5, 140 / 255, 200 / 255], (7, 1)), atol=0.05)
    expected = [HALF_HOPELESS, MIDDLING, -np.log(1 - 200 / 255)]
    np.testing.assert_allclose(guessed["nats"], np.tile(expected, (7, 1)), atol=0.05 * np.log(510))


@pytest.mark.parametrize("name", ["atlas", "atlas_top8"])
def test_batch_company_and_order_change_nothing(bank, questions, name):
    one = baseline(name, NATS) if name == "atlas_top8" else strategy(name, NATS)
    answered, evaluation = evaluate_methods(bank, questions, **{name: one})
    for rows in (np.array([3]), np.array([6, 1, 4, 0, 2, 5, 3])):
        mixed = jax.tree.leaves(evaluation.answer(name, rows))
        for values, expected in zip(mixed, jax.tree.leaves(answered[name]), strict=True):
            np.testing.assert_array_equal(values, np.asarray(expected)[rows])


def test_another_loss_is_another_program_and_another_temperature_is_not(bank, questions):
    warmer = NATS.with_settings({"atlas.temperature": 0.7})
    methods = {"bounded": BOUNDED, "nats": NATS, "warmer": warmer}
    methods = {name: strategy("atlas", preset) for name, preset in methods.items()}
    structures = {name: jax.tree.structure(one) for name, one in methods.items()}
    assert structures["nats"] == structures["warmer"] != structures["bounded"]
    answered, _ = evaluate_methods(bank, questions, nats=methods["nats"])
    programs = _reroute_on_cpu._cache_size()
    others, _ = evaluate_methods(bank, questions, warmer=methods["warmer"])
    assert _reroute_on_cpu._cache_size() == programs
    assert np.abs(others["warmer"]["weights"] - answered["nats"]["weights"]).max() > 0.01
