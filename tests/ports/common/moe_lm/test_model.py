"""Cached evaluation of a routed language model: equal to the plain whole forward pass for every scope and mode."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.moe import select
from ports.common.layers.moe_decoder import MoEDecoder, MoEDecoderConfig
from ports.common.layers.routed_experts import RoutedRows
from ports.common.moe_lm.config import RoutingScope
from ports.common.moe_lm.features import LMAnswer, Prompt, prompt_rows
from ports.common.moe_lm.model import RoutedLM
from r2t2_jax.contract import Query, References
from r2t2_jax.costs.jaxpr import _all_equations, flops_by_scope, weight_gradients
from r2t2_jax.method.forward import encode_batch
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import _reroute_on_cpu, reroute_batch
from r2t2_jax.methods import strategy
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit
from tests.ports.common.moe_lm.recorded import Batch, whole_forward

CONFIG = MoEDecoderConfig(61, 20, 4, 4, 2, 6, experts=5, top_k=2, hidden=14, theta=1e4, sections=(1, 1, 1))
LENGTH, PROMPT, ANSWER = 9, 7, 3
SCOPES = ("last_prompt", "prompt", "image", "text", "all")


@cache
def model(scope="last_prompt", layers=(2, 3), core=CONFIG.experts):
    graph, params = nnx.split(MoEDecoder(CONFIG, nnx.Rngs(0)))
    for leaf in (params["layers"]["experts"]["gate_up"], params["layers"]["experts"]["down"]):
        leaf[...] = 12 * leaf[...]  # so that routing matters
    return RoutedLM(CONFIG, RoutingScope(layers, scope, core), (60,), graph), params


@cache
def sample():
    draw = np.random.default_rng(0)
    pad = LENGTH - PROMPT
    tokens = np.concatenate([np.zeros(pad, int), draw.integers(1, 60, PROMPT)])
    real = np.arange(LENGTH) >= pad
    axes = np.stack([np.arange(PROMPT), draw.integers(0, 4, PROMPT), draw.integers(0, 4, PROMPT)])
    positions = np.concatenate([np.zeros((3, pad), int), axes], axis=1)
    visual = np.isin(np.arange(LENGTH), [pad + 1, pad + 2, pad + 3])
    prompt = Prompt(*map(jnp.asarray, (tokens, real, positions, visual, np.asarray(PROMPT))))
    answer = LMAnswer(jnp.asarray([5, 9, 60, 0]), jnp.asarray([True, True, True, False]))
    return prompt, answer


def whole_batch(prompt, answer):
    """Prompt and answer as one sequence, without padding between them."""
    tokens = jnp.concatenate([prompt.tokens, answer.tokens])[None]
    mask = jnp.concatenate([prompt.mask, answer.mask])[None].astype(int)
    labels = jnp.concatenate([jnp.full(LENGTH, -100), jnp.where(answer.mask, answer.tokens, -100)])[None]
    more = jnp.broadcast_to(PROMPT + jnp.arange(len(answer.tokens)), (3, len(answer.tokens)))
    positions = jnp.concatenate([prompt.positions, more], axis=1)[None]
    return Batch(tokens, mask, labels, jnp.zeros(1, int), positions)


def scope_rows(scope, prompt, answer):
    visual, answers = prompt.visual & prompt.mask, answer.mask
    none = jnp.zeros_like(answers)
    prompt_rows = {
        "last_prompt": jnp.arange(LENGTH) == LENGTH - 1,
        "prompt": prompt.mask,
        "image": visual,
        "text": prompt.mask & ~visual,
        "all": prompt.mask,
    }[scope]
    return jnp.concatenate([prompt_rows, answers if scope in ("text", "all") else none])


def routings(shape):
    draw = np.random.default_rng(1)
    ids = np.stack([draw.permutation(CONFIG.experts)[: CONFIG.top_k] for _ in range(shape[0])])
    free = draw.normal(size=shape).astype(np.float32)
    return {"replace": free, "shift": 2 * free, "select": ids}


FAST = {("last_prompt", "replace"), ("all", "shift")}
CASES = [
    pytest.param(scope, mode, marks=() if (scope, mode) in FAST else pytest.mark.slow)
    for scope in SCOPES
    for mode in ("replace", "shift", "select")
]


@pytest.mark.parametrize(("scope", "mode"), CASES)
def test_the_cached_loss_and_gradient_are_those_of_the_whole_forward_pass(scope, mode):
    routed, params = model(scope)
    prompt, answer = sample()
    values = jnp.asarray(routings(routed.spec.shape)[mode])
    rows = scope_rows(scope, prompt, answer)
    batch = whole_batch(prompt, answer)

    def whole(params, values):
        imposed = RoutedRows(values[None], rows[None], mode, routed.scope.layers, len(rows))
        return whole_forward(nnx.merge(routed.graph, params), batch, imposed).loss[0]

    def cached(params, values):
        features = routed.encode(params, prompt)
        kept = routed.condition(params, features, answer)
        return routed.answer_loss(params, kept, Routing(values, mode), answer)

    untouched = quick_jit(lambda params: routed.answer_loss(params, routed.encode(params, prompt), None, answer))(
        params
    )
    if mode == "select":
        actual = quick_jit(cached)(params, values)
        np.testing.assert_allclose(actual, quick_jit(whole)(params, values), atol=1e-5)
    else:
        expected, gradient = quick_jit(jax.value_and_grad(whole, argnums=1))(params, values)
        actual, slope = quick_jit(jax.value_and_grad(cached, argnums=1))(params, values)
        np.testing.assert_allclose(actual, expected, atol=1e-5)
        np.testing.assert_allclose(slope, gradient, atol=1e-5 * max(1, np.abs(gradient).max()))
        assert np.abs(gradient).max() > 1e-3
    assert abs(actual - untouched) > 1e-3


@cache
def cached_losses(kind):
    """The losses of all modes by cached evaluation with three core experts, for any rows of a kind of scope."""
    routed, params = model(kind, core=3)

    @quick_jit
    def run(params, prompt, answer, rows):
        features = routed.encode(params, prompt)
        if rows is not None:
            features = dataclasses.replace(features, rows=rows)
        kept = routed.condition(params, features, answer)
        values = routings(routed.spec.shape)
        values["replace"] = jnp.where(features.core, values["replace"], 0)
        imposed = {mode: Routing(leaf, mode, features.core) for mode, leaf in values.items()}
        return features.core, values, {
            mode: routed.answer_loss(params, kept, routing, answer) for mode, routing in imposed.items()
        }  # fmt: skip

    return routed, partial(run, params)


@cache
def whole_losses():
    routed, params = model()

    @quick_jit
    def run(params, batch, rows, values):
        net = nnx.merge(routed.graph, params)
        routed_rows = {
            mode: RoutedRows(leaf[None], rows[None], mode, (2, 3), len(rows)) for mode, leaf in values.items()
        }
        return {mode: whole_forward(net, batch, imposed).loss[0] for mode, imposed in routed_rows.items()}

    return partial(run, params)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_cached_loss_of_every_scope_and_mode_is_that_of_the_whole_forward_pass(scope):
    prompt, answer = sample()
    kind = {"image": "prompt", "text": "all"}.get(scope, scope)  # scopes that differ in their rows share a program
    _, run = cached_losses(kind)
    rows = scope_rows(scope, prompt, answer)
    if scope != "last_prompt":
        np.testing.assert_array_equal(prompt_rows(model(scope)[0].scope, prompt), rows[:LENGTH])
    core, values, actual = run(prompt, answer, None if scope == "last_prompt" else rows[:LENGTH])
    assert np.asarray(core).sum(axis=1).tolist() == [3, 3]
    expected = whole_losses()(whole_batch(prompt, answer), rows, values)
    for mode, loss in actual.items():
        np.testing.assert_allclose(loss, expected[mode], atol=1e-5, err_msg=mode)
    assert len({round(float(loss), 3) for loss in actual.values()}) == 3


@cache
def features_and_routing():
    routed, params = model(core=3)

    @quick_jit
    def run(params, prompt, answer):
        features = routed.encode(params, prompt)
        kept = routed.condition(params, features, answer)
        read = routed.gate_input(params, features), routed.gate_input(params, kept)
        return features, routed.route(params, features), read

    return routed, params, *run(params, *sample())


def test_the_gate_input_of_plain_and_conditioned_features_gives_the_routers_weights():
    _, params, _, own, read = features_and_routing()
    for vector in read:
        logits = vector[None] @ params["layers"]["gate"]["kernel"][...][2]
        weights = select(logits, CONFIG.top_k, CONFIG.normalize).dense()
        np.testing.assert_allclose(weights[0], own[0], atol=1e-5)


def test_the_routers_own_weights_at_the_last_prompt_token_leave_the_model_unchanged():
    routed, params, features, own, _ = features_and_routing()
    _, answer = sample()
    loss = quick_jit(lambda routing: routed.answer_loss(params, features, routing, answer))
    np.testing.assert_allclose(loss(Routing(own)), loss(None), atol=1e-5)
    np.testing.assert_allclose(loss(Routing(jnp.zeros_like(own), "shift")), loss(None), atol=1e-6)


def test_the_core_experts_are_the_most_probable_and_contain_the_chosen_ones():
    routed, _, features, own, _ = features_and_routing()
    core = np.asarray(routed.support(features))
    assert core.sum(axis=1).tolist() == [3, 3]
    assert (core | (np.asarray(own) == 0)).all()
    np.testing.assert_allclose(own.sum(axis=1), 1, atol=1e-6)


def test_batches_step_sizes_and_core_experts_share_one_program_and_weights_stay_on_the_core():
    routed, params = model(core=3)
    prompt, answer = sample()
    before = encode_batch._cache_size(), _reroute_on_cpu._cache_size()
    supports = []
    for rate, shift in ((0.1, 0), (0.2, 7)):
        tokens = jnp.where(prompt.mask, (prompt.tokens + shift) % 59 + 1, 0)
        prompts = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), dataclasses.replace(prompt, tokens=tokens))
        features, own = encode_batch(params, prompts, model=routed)
        queries = Query(features, own, routed.support(features))
        near = jax.tree.map(lambda leaf: leaf[:, None], features)
        answers = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf])[:, None], answer)
        references = References(None, near, answers, own[:, None], jnp.ones((2, 1)))
        descent = {"steps": 2, "learning_rate": rate}
        ngd = strategy("ngd", Preset.from_mapping({"neighborhood": {"k": 1}, "descent": descent}))
        result = reroute_batch(ngd, routed, params, queries, references, sample_keys(0, np.arange(2)))
        assert not np.asarray(result.weights)[~np.asarray(queries.support)].any()
        assert np.abs(result.weights - own).max() > 1e-3
        supports.append(np.asarray(queries.support))
    assert (supports[0] != supports[1]).any()
    assert (encode_batch._cache_size(), _reroute_on_cpu._cache_size()) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("scope", ["last_prompt", "prompt", "all"])
def test_rerouted_rows_compute_only_the_core_experts(scope):
    routed, params = model(scope, core=3)
    prompt, answer = sample()
    features = jax.eval_shape(routed.encode, params, prompt)
    own = jax.eval_shape(routed.route, params, features)
    support = jax.eval_shape(routed.support, features)

    def expert_flops(support):
        def loss(params, features, own, answer, support):
            return routed.answer_loss(params, features, Routing(own, support=support), answer)

        counts = flops_by_scope(jax.make_jaxpr(loss)(params, features, own, answer, support).jaxpr)
        names = "dense_experts", "core_experts"
        return [sum(flops for scopes, flops in counts.items() if name in scopes) for name in names]

    dense, none = expert_flops(None)
    nothing, core = expert_flops(support)
    assert dense > 0 and none == nothing == 0
    assert core * CONFIG.experts == dense * 3


def test_candidates_token_log_probabilities_and_the_loss_agree():
    routed, params, features, own, _ = features_and_routing()
    _, answer = sample()

    @quick_jit
    def run(params, features, own, answer):
        routing = Routing(own[:, ::-1])
        candidates = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), answer)
        total = routed.answer_logprobs(params, features, routing, candidates)
        logprobs, mask = routed.token_logprobs(params, features, routing, answer)
        return total, logprobs, mask, routed.answer_loss(params, features, routing, answer)

    total, logprobs, mask, loss = run(params, features, own, answer)
    np.testing.assert_allclose(total, -3 * loss, atol=2e-5)
    picked = np.asarray(logprobs)[np.arange(4), np.asarray(answer.tokens)]
    np.testing.assert_allclose(picked[np.asarray(mask)].sum(), total[0], atol=2e-5)


def test_samples_become_rows_of_one_batch_and_no_weight_has_a_gradient():
    routed, params = model()
    prompt, answer = sample()
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 7), (prompt, answer))

    def losses(values, params, batch):
        def loss(values, prompt, answer):
            return routed.answer_loss(params, routed.encode(params, prompt), Routing(values), answer)

        return jax.vmap(loss)(values, *batch).sum()

    values = jnp.ones((7, *routed.spec.shape))
    program = jax.make_jaxpr(jax.grad(losses))(values, params, batch)
    assert weight_gradients(program, params["layers"]["experts"]) == []
    products = [equation for equation in _all_equations(program) if equation.primitive.name == "ragged_dot_general"]
    assert products
    assert all(equation.invars[0].aval.ndim == 2 for equation in products)  # rows, not a batch of them
    assert all(equation.invars[1].aval.ndim == 3 for equation in products)
