"""The pocket model satisfies the contract, with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.pocket.attention import attend, attend_states
from ports.pocket.config import PocketConfig
from ports.pocket.layers import Mixer, convolve_patches, rms_norm
from ports.pocket.model import PocketModel
from ports.pocket.modeling import PocketInputs, count_parameters, create, fake_inputs
from ports.pocket.tokenizer import BEGIN, END, PAD
from r2t2_jax.contract import RoutedModel
from r2t2_jax.routing import Routing

CONFIG = PocketConfig(vocab_size=40, question_length=10)


@pytest.fixture(scope="module")
def pocket():
    net = nnx.jit(lambda: create(CONFIG, nnx.Rngs(0)))()  # eagerly it takes a minute
    net.gate.down_proj.kernel[...] = 0.5 * jax.random.normal(jax.random.key(1), net.gate.down_proj.kernel.shape)
    graph, params = nnx.split(net)
    return PocketModel(CONFIG, graph), params


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray([5, 9, 11, 4, 20, PAD, PAD, PAD, PAD, PAD])
    return PocketInputs(jnp.asarray(rng.integers(0, 256, (96, 96, 3)), jnp.uint8), tokens, tokens != PAD)


@pytest.fixture(scope="module")
def features(pocket, inputs):
    model, params = pocket
    return model.encode(params, inputs)


def answer_of(*tokens):
    padded = jnp.asarray([*tokens, *[PAD] * (CONFIG.answer_length - len(tokens))])
    return PocketModel(CONFIG, None).as_answer(padded)


def test_it_is_a_routed_model(pocket):
    assert isinstance(pocket[0], RoutedModel)
    assert pocket[0].spec.shape == (2, 6)
    assert hash(pocket[0]) == hash(PocketModel(CONFIG, pocket[0].graph))


def test_mixing_is_the_formula_written_out(pocket, features):
    model, params = pocket
    net = nnx.merge(model.graph, params)
    weights = jax.random.dirichlet(jax.random.key(2), jnp.ones(6), (2,))
    x = np.asarray(features.stream)
    for layer in range(2):
        mixer = net.mixers[layer]
        normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        total = np.zeros_like(x)
        for e in range(6):
            query = normed @ np.asarray(mixer.q_proj[...][e])
            key = np.asarray(features.keys[layer, e])
            scores = query @ key.T / np.sqrt(key.shape[-1]) + float(mixer.prior[...][e]) * np.eye(16)
            attention = np.exp(scores - scores.max(-1, keepdims=True))
            attention /= attention.sum(-1, keepdims=True)
            total += float(weights[layer, e]) * (attention @ np.asarray(features.values[layer, e]))
        x = x + float(mixer.scale[...]) * total
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(net.combine_experts(features, weights), expected, atol=2e-5)


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("window", [(3, 3), (2, 4)])
def test_a_product_of_windows_is_the_convolution(window, batch):
    conv = nnx.Conv(
        5, 7, window, strides=window, padding="VALID", rngs=nnx.Rngs(0), bias_init=nnx.initializers.normal()
    )
    x = jax.random.normal(jax.random.key(1), (*batch, 6, 8, 5) if window == (2, 4) else (*batch, 6, 9, 5))
    np.testing.assert_allclose(convolve_patches(conv, x), conv(x), atol=1e-5)


def test_attention_and_its_gradient_are_those_of_the_formula():
    tokens, outside, inside = 2, 3, 4
    shapes = [(n, 2, 5) for n in (tokens, outside, outside, inside, inside)]
    arrays = [jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate(shapes)]
    mask = jnp.asarray(np.random.default_rng(0).random((tokens, outside + inside)) < 0.6).at[:, 0].set(True)

    def ours(query, context_keys, context_values, keys, values):
        return attend(query, (context_keys, context_values), keys, values, mask)

    def formula(query, context_keys, context_values, keys, values):
        keys, values = jnp.concatenate([context_keys, keys]), jnp.concatenate([context_values, values])
        return jax.nn.dot_product_attention(query, keys, values, mask=mask[None], scale=1.0)

    def value_and_slopes(function):
        value, pull = jax.vjp(function, *arrays)
        return value, *pull(jnp.sin(value))

    both = jax.jit(lambda: (value_and_slopes(ours), value_and_slopes(formula)))()
    for own, expected in zip(*both, strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-6)


def test_attention_over_states_and_its_gradient_are_those_of_their_keys_and_values():
    queries, outside, inside, heads, width = 2, 3, 4, 2, 5
    shapes = [(queries, heads, 3), *[(outside, heads, 3)] * 2, (inside, width), *[(width, heads, 3)] * 2]
    arrays = [jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate(shapes)]
    mask = np.random.default_rng(0).random((queries, outside + inside)) < 0.6
    mask[:, [0, outside]], mask[:, 1] = True, False  # no query sees the second token of the context

    def ours(query, context_keys, context_values, states, key, value):
        projected = jnp.einsum("qhd,chd->qhc", query, key)
        mixed, attended = attend_states(query, projected, (context_keys, context_values), states, mask)
        return attended + jnp.einsum("qhc,chd->qhd", mixed, value)

    def with_keys(query, context_keys, context_values, states, key, value):
        keys, values = (jnp.einsum("sc,chd->shd", states, weights) for weights in (key, value))
        return attend(query, (context_keys, context_values), keys, values, mask)

    def value_and_slopes(function):
        value, pull = jax.vjp(function, *arrays)
        return value, *pull(jnp.sin(value))

    both = jax.jit(lambda: (value_and_slopes(ours), value_and_slopes(with_keys)))()
    for own, expected in zip(*both, strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-5)


def test_the_joint_pass_gives_the_logits_of_prefilling(pocket, features):
    model, params = pocket
    net = nnx.merge(model.graph, params)
    image = net.project(net.combine_experts(features, jnp.full((2, 6), 1 / 6)))
    tokens = jnp.asarray([BEGIN, 7, 21])
    keys, values, _ = net.prefill_image(features, image)
    expected = net.answer_logits(keys, values, features.question_mask, tokens)
    np.testing.assert_allclose(net.joint_logits(features, image, tokens), expected, atol=2e-5)


def test_no_score_of_a_mixer_exceeds_its_bound():
    mixer = Mixer(CONFIG, nnx.Rngs(3))
    stream, vision = (5 * jax.random.normal(jax.random.key(n), (200, width)) for n, width in enumerate((6, 8)))
    keys, _ = mixer.keys_values(jnp.broadcast_to(rms_norm(vision), (6, 200, 8)))
    query = jnp.einsum("iw,ewq->eiq", rms_norm(stream), mixer.q_proj[...])
    scores = jnp.einsum("eiq,ejq->eij", query, keys) / 8**0.5 + mixer.prior[...][:, None, None]
    assert (scores.max(axis=(1, 2)) <= mixer.largest_scores()).all()


def test_routing_none_is_the_gate(pocket, features):
    model, params = pocket
    own = model.route(params, features)
    answer = answer_of(7, END)
    base = model.answer_loss(params, features, None, answer)
    assert model.answer_loss(params, features, Routing(own), answer) == pytest.approx(float(base), abs=1e-6)
    shift = Routing(jnp.zeros((2, 6)), "shift")
    assert model.answer_loss(params, features, shift, answer) == pytest.approx(float(base), abs=1e-5)
    assert (model.generate(params, features, shift, 3) == model.generate(params, features, None, 3)).all()
    np.testing.assert_allclose(model.route(params, features, shift), own, atol=1e-6)


def test_routing_changes_the_answer_distribution(pocket, features):
    model, params = pocket
    losses = [
        float(model.answer_loss(params, features, Routing(model.spec.one_hot_experts([name])), answer_of(7, END)))
        for name in CONFIG.experts
    ]
    assert len({round(loss, 4) for loss in losses}) == 6


def test_padding_of_the_question_changes_nothing(pocket, inputs):
    model, params = pocket
    other = jnp.where(inputs.mask, inputs.tokens, 13)  # arbitrary tokens after the mask
    first = model.encode(params, inputs)
    second = model.encode(params, PocketInputs(inputs.image, other, inputs.mask))
    for routing in (None, Routing(model.spec.one_hot_experts(["glyph"]))):
        losses = [float(model.answer_loss(params, f, routing, answer_of(7, 8, END))) for f in (first, second)]
        assert losses[0] == losses[1]


def test_the_loss_is_the_mean_over_answer_tokens(pocket, features):
    model, params = pocket
    short, long = answer_of(7, END), answer_of(7, 8, END)
    candidates = jax.tree.map(lambda *leaves: jnp.stack(leaves), short, long)
    totals = model.answer_logprobs(params, features, None, candidates)
    assert float(totals[0]) == pytest.approx(-2 * float(model.answer_loss(params, features, None, short)), rel=1e-5)
    assert float(totals[1]) == pytest.approx(-3 * float(model.answer_loss(params, features, None, long)), rel=1e-5)


def test_answers_are_a_distribution(pocket, features):
    model, params = pocket
    singles = jnp.arange(CONFIG.vocab_size)
    first = jnp.stack([singles, jnp.full_like(singles, PAD), jnp.full_like(singles, PAD)], axis=1)
    mask = jnp.zeros_like(first, bool).at[:, 0].set(True)
    candidates = type(answer_of(END))(first, mask)
    assert float(jnp.exp(model.answer_logprobs(params, features, None, candidates)).sum()) == pytest.approx(1, abs=1e-5)


def test_generation_is_greedy_and_stops(pocket, features):
    model, params = pocket
    net = nnx.merge(model.graph, params)
    routing = Routing(model.spec.one_hot_experts(["shape", "size"]))
    keys, values, _ = net.prefill_image(features, net.project(net.combine_experts(features, routing.values)))
    written = []
    while len(written) < 3 and END not in written:
        padded = jnp.asarray([BEGIN, *written])
        logits = net.answer_logits(keys, values, features.question_mask, padded)
        written.append(int(logits[-1].argmax()))
    answer = model.generate(params, features, routing, 5).tolist()
    assert answer == written + [PAD] * (5 - len(written))


def test_features_do_not_depend_on_the_answer_and_the_gradient_reaches_every_weight(pocket, inputs):
    model, params = pocket
    shapes = jax.eval_shape(model.encode, params, inputs)
    assert all(leaf.dtype in (jnp.float32, jnp.bool_) for leaf in jax.tree.leaves(shapes))
    slope = jax.grad(lambda r: model.answer_loss(params, model.encode(params, inputs), Routing(r), answer_of(7, END)))(
        jnp.full((2, 6), 1 / 6)
    )
    assert (jnp.abs(slope) > 0).all()


def test_fake_inputs_and_parameter_count(pocket):
    model, params = pocket
    fake = fake_inputs(CONFIG)
    features = jax.eval_shape(model.encode, params, fake)
    assert features.values.shape == (2, 6, 16, 6)
    assert count_parameters(CONFIG) == sum(leaf.size for leaf in jax.tree.leaves(params))
