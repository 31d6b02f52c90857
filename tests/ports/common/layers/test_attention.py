"""Attention against PyTorch, by hand, and without any visible key."""

import jax.numpy as jnp
import numpy as np
import pytest

from ports.common.layers.attention import attend, causal_mask, join_heads, split_heads


@pytest.fixture
def draw():
    return np.random.default_rng(0)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_grouped_queries_equal_torch_with_repeated_heads(draw, groups):
    torch = pytest.importorskip("torch")
    query, mask = draw.normal(size=(5, 6, 8)).astype("f4"), draw.random((5, 7)) < 0.6
    keys, values = draw.normal(size=(2, 7, groups, 8)).astype("f4")
    mask[:, 0] = True
    repeated = [torch.tensor(part.repeat(6 // groups, axis=1)).transpose(0, 1) for part in (keys, values)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        torch.tensor(query).transpose(0, 1), *repeated, attn_mask=torch.tensor(mask)
    ).transpose(0, 1)
    np.testing.assert_allclose(attend(query, keys, values, mask), expected.numpy(), atol=1e-6)


def test_bias_and_scale_by_hand():
    query, keys = jnp.ones((1, 1, 1)), jnp.zeros((2, 1, 1))
    values = jnp.array([[[1.0]], [[5.0]]])
    bias = jnp.log(jnp.array([[[3.0, 1.0]]]))
    np.testing.assert_allclose(attend(query, keys, values, bias=bias), [[[2.0]]], rtol=1e-6)
    keys = jnp.array([[[np.log(3.0)]], [[0.0]]])
    np.testing.assert_allclose(attend(query, keys, values, scale=2.0), [[[1.4]]], rtol=1e-6)  # weights 9/10, 1/10


def test_a_query_without_visible_keys_gives_the_mean_and_no_nan(draw):
    query, keys, values = draw.normal(size=(3, 4, 2, 3)).astype("f4")
    out = attend(query, keys, values, jnp.zeros((1, 4), bool))
    np.testing.assert_allclose(out, np.broadcast_to(values.mean(axis=0), out.shape), atol=1e-6)


def test_softmax_is_float32_in_bfloat16(draw):
    values = jnp.asarray(draw.normal(size=(1024, 1, 4)), jnp.bfloat16)
    flat = jnp.zeros((1024, 1, 4), jnp.bfloat16)
    out = attend(flat[:1], flat, values)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out[0], "f4"), np.asarray(values, "f4").mean(axis=0), atol=2e-3)


def test_heads_are_contiguous_slices():
    x = jnp.arange(12.0).reshape(2, 6)
    np.testing.assert_array_equal(split_heads(x, 2)[1], [[6, 7, 8], [9, 10, 11]])
    np.testing.assert_array_equal(join_heads(split_heads(x, 3)), x)


def test_causal_mask_by_hand():
    expected = [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    np.testing.assert_array_equal(causal_mask(jnp.array([True, False, True])), np.array(expected, bool))
