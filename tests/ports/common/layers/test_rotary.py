"""Rotary positions: by hand, against transformers, and depending only on differences."""

import jax.numpy as jnp
import numpy as np
import pytest

from ports.common.layers.rotary import rotate


def test_the_first_half_is_rotated_with_the_second():
    x = jnp.array([[[1.0, 1.0, 0.0, 0.0]]])
    angles = np.array([3.0, 3.0 / 10.0])  # theta 100, width 4: frequencies 1 and 100^-(1/2)
    expected = np.concatenate([np.cos(angles), np.sin(angles)])
    np.testing.assert_allclose(rotate(x, jnp.array([3]), 100.0)[0, 0], expected, atol=1e-6)


def test_products_depend_only_on_differences_of_positions():
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 16)).astype("f4")

    def product(p, q):
        return (rotate(query, jnp.array([p]), 1e4) * rotate(key, jnp.array([q]), 1e4)).sum()

    np.testing.assert_allclose(product(7, 3), product(104, 100), atol=1e-5)
    assert abs(product(7, 3) - product(3, 7)) > 1e-2


def test_equals_transformers():
    torch = pytest.importorskip("torch")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(
        hidden_size=32, num_attention_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 5e5}
    )
    x = np.random.default_rng(1).normal(size=(9, 2, 16)).astype("f4")
    cos, sin = llama.LlamaRotaryEmbedding(config)(torch.tensor(x), torch.arange(9)[None])
    query = torch.tensor(x).transpose(0, 1)[None]
    expected, _ = llama.apply_rotary_pos_emb(query, query, cos, sin)
    np.testing.assert_allclose(rotate(x, jnp.arange(9), 5e5), expected[0].transpose(0, 1).numpy(), atol=2e-6)
