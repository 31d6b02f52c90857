"""MoVA through the contract: what routing means, what is hoisted, and that nothing depends on batch or padding."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ports.mova.adapter.adapter import gate_weights
from ports.mova.batch import MovaAnswer
from ports.mova.config import EXPERTS
from ports.mova.model import MovaModel
from ports.mova.modeling import abstract
from ports.mova.port import load, shapes
from r2t2_jax.contract import RoutedModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import encode_batch
from r2t2_jax.routing import Routing, UpdateSpace
from tests.ports.mova.tiny import COARSE, CONFIG, drawn_answers, drawn_inputs, drawn_params, row, tiny


@pytest.fixture(autouse=True)
def precise():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def encoded():
    """Features and own weights of three samples."""
    model, params = tiny()
    with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, encode_batch(params, drawn_inputs(), model=model))


@partial(jax.jit, static_argnames="model")
def evaluate(params, features, routing, answer, *, model):
    """Loss, candidates' log-probabilities, greedy tokens and weights in effect, sample by sample."""

    def per_sample(sample):
        features, routing, answer = sample
        candidates = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), answer)
        return {
            "loss": model.answer_loss(params, features, routing, answer),
            "logprobs": model.answer_logprobs(params, features, routing, candidates),
            "tokens": model.generate(params, features, routing, 5),
            "weights": model.route(params, features, routing),
        }

    return jax.lax.map(per_sample, (features, routing, answer))


def numpy_of(tree):
    return jax.tree.map(np.asarray, tree)


def test_replacing_by_own_weights_and_a_zero_shift_equal_the_base_model(encoded):
    model, params = tiny()
    assert isinstance(model, RoutedModel)
    features, own = encoded
    answers = drawn_answers()
    base = numpy_of(evaluate(params, features, None, answers, model=model))
    for routing in (Routing(own), Routing(np.zeros_like(own), "shift")):
        ours = numpy_of(evaluate(params, features, routing, answers, model=model))
        for name, value in base.items():
            np.testing.assert_allclose(ours[name], value, atol=1e-5)
    length = answers.mask.sum(axis=1)
    np.testing.assert_allclose(base["logprobs"][:, 0], -base["loss"] * length, rtol=1e-5)
    np.testing.assert_allclose(base["weights"], own, atol=1e-6)
    moved = numpy_of(evaluate(params, features, Routing(np.full_like(own, 1 / 7)), answers, model=model))
    assert (np.abs(moved["loss"] - base["loss"]) > 1e-4).all()


def test_own_weights_lie_on_at_most_three_chosen_experts(encoded):
    _, own = encoded
    assert (own[:, :, :][~np.broadcast_to(COARSE[:, None], own.shape)] == 0).all()
    assert ((own > 0).sum(axis=-1) <= CONFIG.adapter.topk).all()
    np.testing.assert_allclose(own.sum(axis=-1), np.broadcast_to(COARSE.any(axis=1)[:, None], own.shape[:2]), atol=1e-6)


def test_gate_weights_by_hand():
    logits, chosen = np.log(np.array([1.0, 2.0, 3.0, 4.0])), np.array([True, True, True, False])
    np.testing.assert_allclose(gate_weights(logits, chosen, 2), [0, 2 / 5, 3 / 5, 0], atol=1e-6)
    np.testing.assert_allclose(gate_weights(logits, chosen & (logits > 1), 2), [0, 0, 1, 0], atol=1e-6)
    assert not gate_weights(logits, chosen & False, 2).any()


def test_a_shift_moves_the_gate_as_its_logits_would(encoded):
    model, params = tiny()
    features, own = encoded
    shift = np.zeros_like(own)
    shift[:, 0, 2] = 1.0
    moved = numpy_of(evaluate(params, features, Routing(shift, "shift"), drawn_answers(), model=model))["weights"]
    before, after = own[0, 0][COARSE[0]], moved[0, 0][COARSE[0]]  # three experts: none is dropped
    expected = before * np.exp(shift[0, 0][COARSE[0]])
    np.testing.assert_allclose(after, expected / expected.sum(), atol=1e-5)


@pytest.fixture(scope="module")
def batch_of_three(encoded):
    model, params = tiny()
    with jax.default_matmul_precision("highest"):
        return numpy_of(evaluate(params, encoded[0], None, drawn_answers(), model=model))


def test_a_batch_of_three_equals_samples_one_by_one(encoded, batch_of_three):
    """With different expert choices, among them none at all."""
    model, params = tiny()
    inputs, answers = drawn_inputs(), drawn_answers()
    for number in range(3):
        single = jax.tree.map(lambda leaf, n=number: leaf[n : n + 1], (inputs, answers))
        features, own = encode_batch(params, single[0], model=model)
        np.testing.assert_array_equal(own[0], encoded[1][number])
        result = numpy_of(evaluate(params, features, None, single[1], model=model))
        for name, value in batch_of_three.items():
            np.testing.assert_array_equal(result[name][0], value[number])


def test_padding_changes_nothing(encoded, batch_of_three):
    model, params = tiny()
    inputs, answers = drawn_inputs(), drawn_answers()
    wide = dataclasses.replace(
        inputs,
        tokens=np.pad(inputs.tokens, ((0, 0), (0, 5)), constant_values=7),
        mask=np.pad(inputs.mask, ((0, 0), (0, 5))),
        words=np.pad(inputs.words, ((0, 0), (0, 3)), constant_values=7),
        words_mask=np.pad(inputs.words_mask, ((0, 0), (0, 3))),
    )
    longer = MovaAnswer(*(np.pad(leaf, ((0, 0), (0, 2))) for leaf in (answers.tokens, answers.mask)))
    features, own = encode_batch(params, wide, model=model)
    np.testing.assert_allclose(own, encoded[1], atol=1e-5)
    result = numpy_of(evaluate(params, features, None, longer, model=model))
    np.testing.assert_allclose(result["loss"], batch_of_three["loss"], atol=1e-5)
    np.testing.assert_array_equal(result["tokens"], batch_of_three["tokens"])


@pytest.mark.slow  # three programs, towers and all
def test_hoisted_and_unhoisted_gradients_agree():
    """Features made before the gradient, inside it, and with the later blocks' keys and values among them."""
    r = np.random.default_rng(0).dirichlet(np.ones(7), 3).astype(np.float32)
    one, answer = jax.tree.map(jnp.asarray, (row(drawn_inputs(), 0), row(drawn_answers(), 0)))
    gradients, params = {}, drawn_params(CONFIG, spread=0.6)  # gradients of order one, for an absolute tolerance
    for keep in ("outputs", "keys"):
        config = dataclasses.replace(CONFIG, keep=keep)
        model = MovaModel(config, abstract(config)[0])

        def loss(r, params, features, model=model):
            return model.answer_loss(params, features, Routing(r), answer)

        features = jax.jit(model.encode)(params, one)
        gradients[keep] = jax.jit(jax.grad(loss))(r, params, features)
        if keep == "outputs":
            inside = jax.jit(jax.grad(lambda r, params, model=model: loss(r, params, model.encode(params, one))))
            gradients["inside"] = inside(r, params)
    assert np.abs(gradients["inside"]).max() > 1e-3
    for keep in ("outputs", "keys"):
        np.testing.assert_allclose(gradients[keep], gradients["inside"], atol=1e-5)


def test_support_is_the_coarse_choice_or_everything(encoded):
    model, _ = tiny()
    features, _ = encoded
    np.testing.assert_array_equal(model.support(features), np.repeat(COARSE[:, None], 3, axis=1))
    np.testing.assert_array_equal(model.support(row(features, 2)), np.repeat(COARSE[2:], 3, axis=0))
    free = MovaModel(dataclasses.replace(CONFIG, support="all"), model.graph)
    assert np.asarray(free.support(features)).all()


def test_a_kernel_mean_is_projected_onto_the_support(encoded):
    model, _ = tiny()
    support = np.asarray(model.support(row(encoded[0], 0)))
    mean = np.full((3, 7), 1 / 7, np.float32)
    for tied in (False, True):
        space = UpdateSpace("free", tied)
        weights = space.routing(model.spec, space.start(model.spec, mean, support), support).values
        np.testing.assert_allclose(weights, support / 3, atol=1e-6)


def test_generated_tokens_as_an_answer():
    model, _ = tiny()
    answer = model.as_answer(np.array([5, 9, CONFIG.end, 0, 0]))
    np.testing.assert_array_equal(answer.mask, [True, True, True, False, False])


def test_a_port_needs_a_directory():
    with pytest.raises(R2T2Error, match="r2t2 convert"):
        load(None)
    with pytest.raises(R2T2Error, match="no setting 'support=some'"):
        load("somewhere,support=some")
    with pytest.raises(R2T2Error, match="no model directory"):
        load("nowhere")


def test_shapes_without_weights():
    model_shapes = shapes("tiny", 40, 5)
    assert model_shapes.answer.tokens.shape == (5,)
    assert model_shapes.features.embeddings.shape == (40, CONFIG.decoder.width)
    assert model_shapes.model.spec.experts == EXPERTS
