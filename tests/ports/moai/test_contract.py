"""The tiny MoAI implements the contract."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.stack import layer_at
from ports.moai.model import MoAIModel
from ports.moai.modeling import abstract
from ports.moai.params import merge_plora
from r2t2_jax.contract import RoutedModel
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit
from tests.ports.moai.tiny import CONFIG, answer_of, draw_inputs, tiny

SHAPE = CONFIG.spec.shape


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def features():
    model, params = tiny()
    with jax.default_matmul_precision("highest"):
        return quick_jit(model.encode)(params, draw_inputs(0))


@partial(quick_jit, static_argnums=0)
def loss_of(model, params, features, routing, answer):
    return model.answer_loss(params, features, routing, answer)


def random_routing(seed=5):
    return jax.random.dirichlet(jax.random.key(seed), jnp.ones(3), (SHAPE[0], 2)).reshape(SHAPE)


def assert_same_gradient(gradient, expected):
    """Equal but for float32 rounding, relative to the largest entry: two programs add in different orders."""
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=3e-5 * np.abs(np.asarray(expected)).max())


def test_it_is_a_routed_model():
    model, _ = tiny()
    assert isinstance(model, RoutedModel)
    assert model.spec.shape == (2, 6) and model.spec.groups == ((0, 1, 2), (3, 4, 5))
    assert hash(model) == hash(MoAIModel(CONFIG, model.graph))


def test_a_shift_of_zero_is_the_base_model(features):
    model, params = tiny()
    answer, zero = answer_of(7, 8, 95), Routing(jnp.zeros(SHAPE), "shift")
    base = loss_of(model, params, features, None, answer)
    assert loss_of(model, params, features, zero, answer) == pytest.approx(float(base), abs=1e-5)
    generate = quick_jit(lambda routing: model.generate(params, features, routing, 6))
    np.testing.assert_array_equal(generate(zero), generate(None))
    moved = loss_of(model, params, features, Routing(jnp.ones(SHAPE).at[0, 0].set(3), "shift"), answer)
    assert abs(float(moved - base)) > 1e-4


def test_route_is_the_token_mean_of_the_gates(features):
    """The first mixer is compared with NumPy; replacing the gates by their mean changes the loss."""
    model, params = tiny()
    route = quick_jit(model.route)
    own = route(params, features)
    np.testing.assert_allclose(own.reshape(-1, 3).sum(axis=1), 1.0, atol=1e-5)
    values = random_routing()
    np.testing.assert_array_equal(model.route(params, features, Routing(values)), values)
    net = nnx.merge(model.graph, params)
    x = np.asarray(features.stream, np.float64)
    h = (
        x
        / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.rms_eps)
        * np.asarray(net.mixed.input_layernorm.scale[...][0])
    )
    for side, rows, columns in (("image", h[: CONFIG.image_tokens], 0), ("language", h[CONFIG.image_tokens :], 3)):
        gate = getattr(net.mixed.mixer.gates, side)
        logits = np.exp(rows @ np.asarray(gate.kernel[...][0]) + np.asarray(gate.bias[...][0]))
        mean = (logits / logits.sum(-1, keepdims=True)).mean(0)
        np.testing.assert_allclose(own[0, columns : columns + 3], mean, atol=1e-5)
    answer = answer_of(7, 8, 95)
    base, mean = (loss_of(model, params, features, routing, answer) for routing in (None, Routing(own)))
    assert abs(float(base - mean)) > 1e-5


@pytest.mark.slow  # two programs
def test_hoisted_and_unhoisted_gradients_agree(features):
    model, params = tiny()
    answer, inputs = answer_of(7, 8, 95), draw_inputs(0)
    hoisted = quick_jit(jax.grad(lambda r: model.answer_loss(params, features, Routing(r), answer)))
    whole = quick_jit(jax.grad(lambda r: model.answer_loss(params, model.encode(params, inputs), Routing(r), answer)))
    values = random_routing()
    gradient = hoisted(values)
    assert_same_gradient(gradient, whole(values))
    assert (np.abs(np.asarray(gradient)) > 0).all()


def test_padding_changes_nothing(features):
    """Longer buckets with random tokens where masked: the same loss and the same answer."""
    model, params = tiny()
    inputs = draw_inputs(0)

    def pad(value, count, filling):
        return jnp.concatenate([jnp.full(count, filling, value.dtype), value])

    wide = dataclasses.replace(
        inputs,
        tokens=pad(inputs.tokens, 4, 17),
        mask=pad(inputs.mask, 4, False),
        language=pad(inputs.language, 4, False),
        before_image=pad(inputs.before_image, 4, True),
        verbalization=pad(inputs.verbalization, 3, 11),
        verbalization_mask=pad(inputs.verbalization_mask, 3, False),
    )
    other = quick_jit(model.encode)(params, wide)
    for routing in (None, Routing(random_routing())):
        answer = answer_of(7, 8, 95)
        losses = [float(loss_of(model, params, f, routing, answer)) for f in (features, other)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
        tokens = [quick_jit(lambda f, r=routing: model.generate(params, f, r, 5))(f) for f in (features, other)]
        np.testing.assert_array_equal(*tokens)
    # As in upstream: the compressor does not mask the padding of the verbalization.
    upstream = dataclasses.replace(wide, verbalization_mask=jnp.ones_like(wide.verbalization_mask))
    unmasked = quick_jit(model.encode)(params, upstream)
    assert float(jnp.abs(unmasked.latents - features.latents).max()) > 1e-4


def test_the_loss_is_the_mean_over_the_tokens_of_the_answer(features):
    """Total log-probabilities of all two-token answers with one first token sum up to that of the first token."""
    model, params = tiny()
    vocabulary = jnp.arange(CONFIG.vocab_size)
    pairs = answer_of(7, 8, length=2).__class__(
        jnp.stack([jnp.full_like(vocabulary, 7), vocabulary], axis=1), jnp.ones((len(vocabulary), 2), bool)
    )
    logprobs = quick_jit(model.answer_logprobs)
    totals = logprobs(params, features, None, pairs)
    single = loss_of(model, params, features, None, answer_of(7))
    assert float(jax.nn.logsumexp(totals)) == pytest.approx(-float(single), abs=1e-4)
    two = loss_of(model, params, features, None, answer_of(7, 8))
    assert float(totals[8]) == pytest.approx(-2 * float(two), rel=1e-5)


@pytest.mark.slow
def test_remat_changes_no_gradient(features):
    answer, values, gradients = answer_of(7, 8, 95), random_routing(), []
    _, params = tiny()
    for remat in ("none", "attention", "full"):
        config = dataclasses.replace(CONFIG, remat=remat)
        model = MoAIModel(config, abstract(config)[0])
        gradient = quick_jit(jax.grad(lambda r, model=model: model.answer_loss(params, features, Routing(r), answer)))
        gradients.append(gradient(values))
    assert_same_gradient(gradients[1], gradients[0])
    assert_same_gradient(gradients[2], gradients[0])


def test_merged_adapters_are_the_same_model(features):
    model, params = tiny()
    config, merged = merge_plora(CONFIG, params)
    other = MoAIModel(config, abstract(config)[0])
    answer, routing = answer_of(7, 8, 95), Routing(random_routing())
    whole = quick_jit(
        lambda p, model: model.answer_loss(p, model.encode(p, draw_inputs(0)), routing, answer), static_argnums=1
    )
    expected = loss_of(model, params, features, routing, answer)
    assert float(whole(merged, other)) == pytest.approx(float(expected), abs=2e-5)


def test_as_answer_ends_with_the_turn():
    model, _ = tiny()
    answer = model.as_answer(jnp.asarray([7, 9, 95, 2, 2]))
    np.testing.assert_array_equal(answer.mask, [True, True, True, False, False])


def test_float16_gates_round_logits_and_weights():
    """The softmax itself is taken in float32, as PyTorch takes it for 16-bit numbers."""
    config = dataclasses.replace(CONFIG, gate_dtype="float16")
    net = nnx.merge(abstract(config)[0], tiny()[1])
    logits = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32) * 3
    rounded = logits.astype(np.float16).astype(np.float32)
    expected = np.exp(rounded - rounded.max(1, keepdims=True))
    expected = (expected / expected.sum(1, keepdims=True)).astype(np.float16).astype(np.float32)
    weights = layer_at(net.mixed, 0).mixer._softmax(jnp.asarray(logits), jnp.zeros(3))
    np.testing.assert_allclose(weights.T, expected, rtol=0, atol=2**-12)  # half a unit of a weight near one
    assert (np.asarray(weights) == np.asarray(weights).astype(np.float16)).all()
