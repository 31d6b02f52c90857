"""Cached evaluation of Qwen3.5-MoE equals the plain whole forward pass for every scope and mode, with padding."""

import dataclasses
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.checkpoint.mapping import named
from ports.common.layers.hybrid_decoder import HybridDecoder, LayerBlock
from ports.common.layers.routed_experts import RoutedRows
from ports.common.moe_lm.config import RoutingScope
from ports.common.moe_lm.costs import whole_loss
from ports.common.moe_lm.features import LMAnswer, Prompt
from ports.common.moe_lm.model import RoutedLM
from ports.common.moe_lm.routes import alternative_experts
from ports.common.sharding import shardings_by
from ports.qwen3_5_moe.config import full_35b_a3b, tiny
from ports.qwen3_5_moe.params import RULES
from r2t2_jax.contract import Query, References
from r2t2_jax.costs.jaxpr import weight_gradients
from r2t2_jax.method.forward import encode_batch
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import _reroute_on_cpu, reroute_batch
from r2t2_jax.methods import strategy
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit

CONFIG = tiny().decoder  # linear, full, linear
LENGTH, PAD = 9, 2
COLLECTIVE = re.compile(r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(")
SCOPES = ("last_prompt", "prompt", "image", "text", "all")


@cache
def model(scope="last_prompt", layers=(1, 2), core=CONFIG.experts):
    graph, params = nnx.split(HybridDecoder(CONFIG, nnx.Rngs(0)))
    for leaf in (params["layers"]["experts"]["gate_up"], params["layers"]["experts"]["down"]):
        leaf[...] = 12 * leaf[...]  # so that routing matters
    return RoutedLM(CONFIG, RoutingScope(layers, scope, core), (60,), graph), params


@cache
def sample():
    draw = np.random.default_rng(0)
    tokens = np.concatenate([np.full(PAD, 7), draw.integers(1, 60, LENGTH - PAD)])
    positions = np.concatenate([np.zeros((3, PAD), int), draw.integers(0, 5, (3, LENGTH - PAD))], axis=1)
    visual = np.isin(np.arange(LENGTH), [PAD + 1, PAD + 2])
    prompt = Prompt(*map(jnp.asarray, (tokens, np.arange(LENGTH) >= PAD, positions, visual, np.asarray(8))))
    return prompt, LMAnswer(jnp.asarray([5, 9, 60, 0]), jnp.asarray([True, True, True, False]))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["replace", "shift", "select"])
@pytest.mark.parametrize("scope", SCOPES)
def test_the_cached_loss_and_gradient_are_those_of_the_whole_forward_pass(scope, mode):
    routed, params = model(scope)
    prompt, answer = sample()
    shape, draw = routed.spec.shape, np.random.default_rng(1)
    ids = np.stack([draw.permutation(CONFIG.experts)[: CONFIG.top_k] for _ in range(shape[0])])
    values = jnp.asarray(ids if mode == "select" else 2 * draw.normal(size=shape).astype(np.float32))

    def losses(values, params):
        kept = routed.condition(params, routed.encode(params, prompt), answer)
        cached = routed.answer_loss(params, kept, Routing(values, mode), answer)
        return cached, whole_loss(routed, params, prompt, Routing(values, mode), answer)

    def both(values, params):
        outputs, backward = jax.vjp(lambda values: losses(values, params), values)
        one, zero = jnp.ones(()), jnp.zeros(())
        return outputs, backward((one, zero))[0], backward((zero, one))[0]

    untouched = quick_jit(lambda params: whole_loss(routed, params, prompt, None, answer))(params)
    if mode == "select":
        cached, whole = quick_jit(losses)(values, params)
    else:
        (cached, whole), slope, gradient = quick_jit(both)(values, params)
        np.testing.assert_allclose(slope, gradient, atol=1e-5 * max(1, np.abs(gradient).max()))
        assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(cached, whole, atol=1e-5)
    assert abs(cached - untouched) > 1e-3


@pytest.mark.slow
def test_r0_at_the_last_token_is_the_whole_forward_pass_and_core_experts_are_the_most_probable():
    routed, params = model(core=3)
    prompt, answer = sample()

    @quick_jit
    def run(params, prompt):
        features = routed.encode(params, prompt)
        own = routed.route(params, features)
        losses = [
            whole_loss(routed, params, prompt, None, answer),
            routed.answer_loss(params, features, Routing(own), answer),
        ]
        return losses, routed.support(features), own

    losses, core, own = run(params, prompt)
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5)
    assert np.asarray(core).sum(axis=1).tolist() == [3, 3]
    assert (np.asarray(core) | (np.asarray(own) == 0)).all()


@pytest.mark.slow
def test_padding_changes_neither_the_loss_nor_the_kept_states():
    routed, params = model()
    prompt, answer = sample()
    bare = Prompt(
        prompt.tokens[PAD:], prompt.mask[PAD:], prompt.positions[:, PAD:], prompt.visual[PAD:], prompt.next_position
    )
    short = LMAnswer(answer.tokens[:3], answer.mask[:3])

    @quick_jit
    def run(params, prompt, answer):
        features = routed.encode(params, prompt)
        return routed.answer_loss(params, features, None, answer), features.early.delta, features.late.delta

    padded, clean = run(params, prompt, answer), run(params, bare, short)
    for leaf, reference in zip(jax.tree.leaves(padded), jax.tree.leaves(clean), strict=True):
        np.testing.assert_allclose(leaf, reference, atol=1e-5)


def test_no_weight_has_a_gradient():
    routed, params = model()
    prompt, answer = sample()
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 7), (prompt, answer))

    def losses(values, params, batch):
        def loss(values, prompt, answer):
            return routed.answer_loss(params, routed.encode(params, prompt), Routing(values), answer)

        return jax.vmap(loss)(values, *batch).sum()

    program = jax.make_jaxpr(jax.grad(losses))(jnp.ones((7, *routed.spec.shape)), params, batch)
    assert weight_gradients(program, params["layers"]["experts"]) == []


def test_layers_are_run_in_repeated_blocks():
    decoder = full_35b_a3b().decoder
    assert decoder.blocks(0, 35, ()) == [LayerBlock(0, 4, 8), LayerBlock(32, 3, 1)]
    assert decoder.blocks(35, 40, range(35, 40)) == [LayerBlock(35, 5, 1)]
    assert decoder.blocks(30, 40, (33,)) == [LayerBlock(30, 3, 1), LayerBlock(33, 1, 1), LayerBlock(34, 6, 1)]
    assert CONFIG.blocks(0, 3, ()) == [LayerBlock(0, 3, 1)]


@pytest.mark.slow
def test_parameters_cut_over_devices_give_the_same_results_and_only_rows_are_exchanged():
    routed, params = model(core=3)
    prompt, answer = sample()
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = jax.device_put(params, shardings_by(RULES, params, mesh))
    cut = {path for path, leaf in named(placed).items() if not leaf.sharding.is_fully_replicated}
    assert {path.split("/")[0] for path in cut} == {"layers", "self_attn", "linear_attn", "lm_head", "embed_tokens"}
    assert placed["layers"]["experts"]["down"][...].addressable_shards[0].data.shape[1] == CONFIG.experts // 2

    @quick_jit
    def run(params, values):
        features = routed.encode(params, prompt)
        kept = routed.condition(params, features, answer)

        def loss(values):
            return routed.answer_loss(params, kept, Routing(values, support=features.core), answer)

        return jax.value_and_grad(loss)(values)

    values = jnp.asarray(np.random.default_rng(1).normal(size=routed.spec.shape).astype(np.float32))
    for own, reference in zip(run(placed, values), run(params, values), strict=True):
        np.testing.assert_allclose(own, reference, atol=1e-5)
    lines = [line for line in run.lower(placed, values).compile().as_text().splitlines() if COLLECTIVE.search(line)]
    assert 1 <= len(lines) <= 200
    results = [re.search(r"= \(?\w+\[([\d,]*)\]", line)[1] for line in lines if " all-gather(" in line]
    largest = max(int(np.prod([int(size) for size in shape.split(",") if size])) for shape in results)
    experts = params["layers"]["experts"]["down"][...]
    assert largest < min(experts[0].size, params["lm_head"]["kernel"][...].size)  # rows, and no weights


@pytest.mark.slow
def test_samples_step_sizes_and_core_experts_share_one_program():
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


@pytest.mark.slow
def test_alternative_routes_are_scored_as_in_the_whole_forward_pass():
    routed, params = model()
    prompt, answer = sample()
    targets, key = jnp.asarray([[5, 1], [9, 2], [60, 3], [0, 4]]), jax.random.key(2)
    scores = quick_jit(lambda *arguments: routed.alternative_logprobs(*arguments, 2))(
        params, prompt, answer, targets, key
    )
    net, k = routed.decoder(params), CONFIG.top_k
    x = net.embed(jnp.concatenate([prompt.tokens, answer.tokens[:-1]]))
    positions = jnp.concatenate([prompt.positions, jnp.broadcast_to(8 + jnp.arange(3), (3, 3))], axis=1)
    valid = jnp.concatenate([prompt.mask, answer.mask[:-1]])

    @quick_jit
    def whole(ids):
        rows = RoutedRows(ids, None, "select", tuple(range(CONFIG.layers)), len(x))
        states, out = net.run(x, positions, valid, routed=rows)
        return jax.nn.log_softmax(net.logits(states)), out.choice

    free = jnp.full((CONFIG.layers, len(x), k), -1)
    own, choice = whole(free)
    for place in (0, 2):
        row = LENGTH - 1 + place
        np.testing.assert_allclose(scores.own[place], own[row][targets[place]], atol=2e-5)
        here = jax.tree.map(lambda leaf, row=row: leaf[:, row : row + 1], choice)
        drawn = alternative_experts(jax.random.split(key, 4)[place], here, 2)
        for layer in range(CONFIG.layers):
            imposed, _ = whole(free.at[layer, row].set(drawn[layer, 1]))
            np.testing.assert_allclose(scores.alternatives[place, layer, 1], imposed[row][targets[place]], atol=2e-5)
