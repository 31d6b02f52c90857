"""Recomputation in the backward pass changes no gradient and stores only the values that its policy allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import core

from ports.common.layers.attention import attend, attend_causal, causal_mask, row_blocks
from ports.common.layers.linear import linear
from ports.common.layers.stack import layer_at, recomputed, scan_layers, stack, traced_keys

LAYERS, WIDTH = 4, 6


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.map = linear(WIDTH, WIDTH, rngs, "float32")

    def __call__(self, x):
        return x + jnp.tanh(self.map(x))


def drawn():
    return stack(Layer, LAYERS, traced_keys(0)), jax.random.normal(jax.random.key(1), (3, WIDTH))


@pytest.mark.parametrize("remat", ["none", "attention", "full"])
def test_gradients_are_equal_and_no_weights_are_stored(remat):
    layers, x = drawn()
    graph, params = nnx.split(layers)

    def last(params, x):
        layers = nnx.merge(graph, params)
        step = recomputed(lambda x, number: (layer_at(layers, number)(x), None), remat)
        return jax.lax.scan(step, x, jnp.arange(LAYERS))[0]

    plain = x
    for number in range(LAYERS):
        plain = layer_at(layers, number)(plain)
    np.testing.assert_allclose(last(params, x), plain, atol=1e-6)
    slope = jax.grad(lambda x: last(params, x).sum())(x)
    expected = jax.grad(lambda x: scan_layers(layers, lambda layer, x, _: (layer(x), None), x)[0].sum())(x)
    np.testing.assert_allclose(slope, expected, atol=1e-6)
    program = jax.make_jaxpr(lambda p, x: jax.tree.leaves(jax.vjp(lambda x: last(p, x), x)[1]))(params, x).jaxpr
    left = {variable for variable in program.outvars if isinstance(variable, core.Var)} - set(program.invars)
    assert (LAYERS, WIDTH, WIDTH) not in {variable.aval.shape for variable in left}


@pytest.mark.parametrize(("start", "stop"), [(0, None), (1, 3), (0, 0), (2, None)])
def test_some_layers_of_a_stack(start, stop):
    layers, x = drawn()
    plain = x
    for number in range(LAYERS)[start:stop]:
        plain = layer_at(layers, number)(plain)
    x_out, _ = scan_layers(layers, lambda layer, x, _: (layer(x), None), x, start=start, stop=stop)
    np.testing.assert_allclose(x_out, plain, atol=1e-6)


@pytest.mark.parametrize("block", [2, 3, 5, 100])
@pytest.mark.parametrize("past", [0, 4])
def test_blocks_of_a_causal_prompt_agree_with_the_mask(block, past):
    """Nine causal rows, two more rows visible to and attending to all, keys before them, one padded row."""
    ordered, behind = 9, 2
    rows, keys = ordered + behind, past + ordered + behind
    draw = np.random.default_rng(0)
    query, key, value = (jnp.asarray(draw.normal(size=(n, 2, 3)), jnp.float32) for n in (rows, keys, keys))
    mask = np.ones((rows, keys), bool)
    valid = np.arange(ordered) != 4
    mask[:ordered, past : past + ordered] = causal_mask(jnp.asarray(valid))
    ours = attend_causal(query, key, value, jnp.asarray(mask), ordered, block, past)
    np.testing.assert_allclose(ours, attend(query, key, value, jnp.asarray(mask)), atol=1e-6)


def test_blocks_cover_the_rows():
    assert row_blocks(9, 4) == [(0, 3), (3, 6), (6, 9)]
    assert row_blocks(0, 4) == []
