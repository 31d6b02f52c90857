"""Objectives: values by hand, gradients against finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.method.objectives import Neighborhood, Oracle, SelfConfidence
from r2t2_jax.methods import strategy
from r2t2_jax.routing import Routing
from tests.toy import MODEL, A, references_for, toy_bank, toy_params, toy_queries

ANSWER_LOSS = jax.jit(MODEL.answer_loss)


def value_of(objective, case):
    """The objective's value for (query, references, routing)."""
    return jax.jit(lambda params, case: objective(MODEL, params, *case))(toy_params(), case)


@pytest.fixture(scope="module")
def case():
    """One query, its references, and a routing that is neither's own."""
    queries, embeddings = toy_queries(1)
    references = references_for(strategy("ngd"), toy_bank(), embeddings)
    first = jax.tree.map(lambda leaf: leaf[0], (queries, dataclasses.replace(references, bank_routing=None)))
    return *first, Routing(jnp.array([[0.1, 0.6, 0.2, 0.1], [0.3, 0.3, 0.0, 0.4]]))


def test_neighborhood_loss_is_the_weighted_mean_of_the_neighbors_losses(case):
    _, references, routing = case
    losses = []
    for i in range(5):
        features, answer = jax.tree.map(lambda leaf, i=i: leaf[i], (references.features, references.answers))
        losses.append(float(ANSWER_LOSS(toy_params(), features, routing, answer)))
    value = value_of(Neighborhood(), case)
    np.testing.assert_allclose(value, np.average(losses, weights=np.asarray(references.weights)), rtol=1e-5)
    assert Neighborhood().forwards(references) == 5


def test_a_neighbor_of_weight_zero_is_left_out_even_if_its_loss_is_infinite(case):
    query, references, routing = case
    single = dataclasses.replace(references, weights=jnp.array([0.7, 0, 0, 0, 0]))
    expected = value_of(Neighborhood(), (query, single, routing))
    broken = dataclasses.replace(
        single, answers={**single.answers, "mask": single.answers["mask"].at[1:].set(0)}
    )  # no token to average over: 0 / 0
    np.testing.assert_array_equal(value_of(Neighborhood(), (query, broken, routing)), expected)
    nothing = dataclasses.replace(references, weights=jnp.zeros(5))
    assert value_of(Neighborhood(), (query, nothing, routing)) == 0


@pytest.mark.parametrize("objective", [Neighborhood(), Oracle()], ids=["neighborhood", "oracle"])
def test_gradient_is_the_finite_difference_in_float64(case, objective):
    with jax.enable_x64(True):
        query, references, routing = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64 if leaf.dtype == jnp.float32 else leaf.dtype), case
        )
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), toy_params())

        def loss(values):
            return objective(MODEL, params, query, references, Routing(values))

        loss = jax.jit(loss)
        gradient = jax.jit(jax.grad(loss))(routing.values)
        assert gradient.dtype == jnp.float64
        step = 1e-5
        for layer, expert in np.ndindex(gradient.shape):
            move = np.zeros(routing.values.shape)
            move[layer, expert] = step
            slope = (loss(routing.values + move) - loss(routing.values - move)) / (2 * step)
            np.testing.assert_allclose(gradient[layer, expert], slope, rtol=1e-6, atol=1e-9)
        assert jnp.abs(gradient).max() > 1e-3


def test_oracle_reads_the_label(case):
    query, _, routing = case
    expected = ANSWER_LOSS(toy_params(), query.features, routing, query.answer)
    np.testing.assert_allclose(value_of(Oracle(), (query, None, routing)), expected, rtol=1e-6)
    assert Oracle().forwards(None) == 1


def test_confidence_scores_the_models_own_answer(case):
    query, _, routing = case
    value = value_of(SelfConfidence(A), (query, None, routing))
    tokens = jax.jit(MODEL.generate, static_argnums=3)(toy_params(), query.features, routing, A)
    own = ANSWER_LOSS(toy_params(), query.features, routing, MODEL.as_answer(tokens))
    np.testing.assert_allclose(value, own, rtol=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(20):  # greedy is the most confident first token
        other = {"tokens": tokens.at[0].set(int(rng.integers(0, 11))), "mask": jnp.array([1.0, 0.0, 0.0])}
        first = {**other, "tokens": tokens}
        losses = [ANSWER_LOSS(toy_params(), query.features, routing, answer) for answer in (first, other)]
        assert losses[0] <= losses[1]
    assert SelfConfidence(A).forwards(None) == 2
