"""Gated DeltaNet: the chunked and the stepwise rule are one function, also in the record; padding enters no state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.gated_delta import DeltaRows, GatedDeltaNet, chunked, stepwise
from tests.compile_counts import quick_jit
from tests.goldens import HERE

HEADS, KEY, VALUE = 2, 5, 3


def drawn(length, seed=0):
    draw = np.random.default_rng(seed)
    query, key = draw.normal(size=(2, length, HEADS, KEY))
    key = 0.8 * key + key.mean(axis=0)  # correlated, so that corrections matter
    value = draw.normal(size=(length, HEADS, VALUE))
    query, key = (leaf / np.linalg.norm(leaf, axis=-1, keepdims=True) for leaf in (query, key))
    g, beta = -draw.exponential(0.3, (length, HEADS)), draw.uniform(0, 1, (length, HEADS))
    state = draw.normal(size=(HEADS, KEY, VALUE))
    return DeltaRows(*(jnp.asarray(leaf, jnp.float32) for leaf in (query, key, value, g, beta))), jnp.asarray(
        state, jnp.float32
    )


def by_hand(rows, state):
    """The rule as it is written down, in float64."""
    state, outputs = np.asarray(state, np.float64), []
    for query, key, value, g, beta in zip(*(np.asarray(leaf, np.float64) for leaf in rows), strict=True):
        heads = []
        for head in range(HEADS):
            own = np.exp(g[head]) * state[head]
            own = own + np.outer(key[head], beta[head] * (value[head] - own.T @ key[head]))
            heads.append((own, own.T @ query[head]))
        state = np.stack([own for own, _ in heads])
        outputs.append([output for _, output in heads])
    return np.asarray(outputs), state


@pytest.mark.parametrize(("length", "size"), [(7, 64), (12, 4), (13, 4)])
def test_chunks_and_steps_compute_the_rule(length, size):
    rows, state = drawn(length)
    expected = by_hand(rows, state)
    both = quick_jit(lambda rows, state: (stepwise(rows, state), chunked(rows, state, size)))(rows, state)
    for actual in both:
        for own, reference in zip(actual, expected, strict=True):
            np.testing.assert_allclose(own, reference, atol=2e-6)


def test_gradients_of_chunks_are_those_of_steps():
    rows, state = drawn(11)

    def total(rule):
        def loss(rows, state):
            outputs, last = rule(rows, state)
            return jnp.sin(outputs).sum() + jnp.cos(last).sum()

        return quick_jit(jax.grad(loss, argnums=(0, 1)))(rows, state)

    by_chunks, by_steps = total(lambda rows, state: chunked(rows, state, 4)), total(stepwise)
    for own, reference in zip(jax.tree.leaves(by_chunks), jax.tree.leaves(by_steps), strict=True):
        np.testing.assert_allclose(own, reference, atol=5e-6)


@pytest.mark.parametrize("name", ["left", "single"])
def test_both_forms_give_the_recorded_outputs(name):
    """Recorded after the convolution: queries, keys and values before their norm, and the rule's outputs."""
    with np.load(HERE / "qwen3_5_moe" / "qwen3_5_moe_a.npz") as arrays:
        layers = [
            {key: arrays[f"{name}/detail/layer{i}/lin_{key}"] for key in ("q", "k", "v", "g", "beta", "core")}
            for i in range(3)
        ]
    for layer in layers:
        group = layer["v"].shape[2] // layer["k"].shape[2]
        query, key = (
            np.repeat(leaf / np.sqrt((leaf**2).sum(axis=-1, keepdims=True) + 1e-6), group, axis=2)
            for leaf in (layer["q"], layer["k"])
        )
        rows = DeltaRows(query * query.shape[-1] ** -0.5, key, layer["v"], layer["g"], layer["beta"])
        state = jnp.zeros((layer["v"].shape[2], key.shape[-1], layer["v"].shape[-1]))
        for rule in (stepwise, chunked):
            outputs, _ = quick_jit(jax.vmap(rule, in_axes=(0, None)))(rows, state)
            np.testing.assert_allclose(outputs, layer["core"], atol=1e-5)


def net():
    layer = GatedDeltaNet(12, 2, 4, 5, 3, 4, 1e-6, nnx.Rngs(0))
    layer.conv1d[...] = jnp.asarray(np.random.default_rng(1).normal(size=layer.conv1d.shape), jnp.float32)
    layer.dt_bias[...] = jnp.asarray([0.3, -0.5, 0.1, 0.7])
    return nnx.split(layer)


@pytest.mark.parametrize(("before", "after"), [(5, 0), (3, 2)])
def test_padding_on_either_side_changes_neither_outputs_nor_the_state(before, after):
    graph, params = net()
    real = np.random.default_rng(2).normal(size=(9, 12)).astype(np.float32)
    padded = np.pad(real, ((before, after), (0, 0)), constant_values=0.7)  # states of padding are not zero
    valid = jnp.arange(len(padded)) - before
    valid = (valid >= 0) & (valid < len(real))

    @quick_jit
    def run(h, valid):
        return nnx.merge(graph, params)(h, valid)

    outputs, state = run(padded, valid)
    expected, reference = run(real, jnp.ones(len(real), bool))
    np.testing.assert_allclose(outputs[before : before + len(real)], expected, atol=2e-6)
    for own, other in zip(jax.tree.leaves(state), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(own, other, atol=2e-6)


def test_a_prompt_then_tokens_give_what_all_rows_give():
    graph, params = net()
    h = np.random.default_rng(3).normal(size=(10, 12)).astype(np.float32)

    @quick_jit
    def run(h):
        layer, ones = nnx.merge(graph, params), jnp.ones(10, bool)
        outputs, state = layer(h[:7], ones[:7])
        parts = [outputs]
        for row in (7, 8):
            output, state = layer(h[row : row + 1], ones[:1], state)
            parts.append(output)
        padded, last = layer(jnp.concatenate([h[9:], h[:2]]), jnp.asarray([True, False, False]), state)
        return jnp.concatenate([*parts, padded[:1]]), last, layer(h, ones)

    outputs, state, (expected, reference) = run(h)
    np.testing.assert_allclose(outputs, expected, atol=2e-6)
    for own, other in zip(jax.tree.leaves(state), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(own, other, atol=2e-6)
