"""The decoder against Llama and Qwen2 of transformers; cached runs against whole runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.attention import causal_mask
from ports.common.layers.decoder import Decoder, DecoderConfig, decoder_leaves
from tests.ports.common.torch_weights import filled, tensors_of

CONFIG = DecoderConfig(width=24, layers=3, heads=6, kv_heads=2, head_width=4, hidden=40, theta=5e5, eps=1e-5)


@pytest.fixture(scope="module")
def random_decoder():
    graph, params = nnx.split(nnx.eval_shape(lambda: Decoder(CONFIG, nnx.Rngs(0))))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.normal(size=leaf.shape), leaf.dtype), params)
    decoder = nnx.merge(graph, params)
    return decoder, jax.random.normal(jax.random.key(1), (10, 24))


@pytest.mark.parametrize(("name", "qkv_bias"), [("Llama", False), ("Qwen2", True)])
def test_causal_states_equal_transformers(name, qkv_bias):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = getattr(transformers, f"{name}Model")(
        getattr(transformers, f"{name}Config")(
            vocab_size=11, hidden_size=24, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
            intermediate_size=40, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        )
    ).eval()  # fmt: skip
    tensors = tensors_of(theirs)
    config = dataclasses.replace(CONFIG, qkv_bias=qkv_bias)
    leaves = decoder_leaves("decoder", "", config)
    ours = filled(lambda: nnx.Dict(decoder=Decoder(config, nnx.Rngs(0))), leaves, tensors)["decoder"]
    x = np.random.default_rng(0).normal(size=(9, 24)).astype("f4")
    with torch.no_grad():
        expected = theirs(inputs_embeds=torch.tensor(x)[None], use_cache=False).last_hidden_state[0].numpy()
    run = jax.jit(lambda x, mask: ours(x, mask, jnp.arange(9))[0])
    np.testing.assert_allclose(run(x, causal_mask(jnp.ones(9, bool))), expected, atol=2e-5)
    assert np.abs(run(x, jnp.ones((9, 9), bool)) - expected).max() > 0.1  # the mask has an effect


def test_tokens_after_a_cache_equal_a_whole_run(random_decoder):
    run, x = jax.jit(random_decoder[0]), random_decoder[1]
    mask, positions = causal_mask(jnp.ones(10, bool)), jnp.arange(10)
    whole, everything = run(x, mask, positions)
    first, cache = run(x[:6], mask[:6, :6], positions[:6])
    rest, new = run(x[6:], mask[6:], positions[6:], cache)
    np.testing.assert_allclose(jnp.concatenate([first, rest]), whole, atol=1e-5)
    joined = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), cache, new)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), joined, everything)


def test_decoding_step_by_step_equals_a_whole_run(random_decoder):
    (decoder, x), run = random_decoder, jax.jit(random_decoder[0])
    mask, positions = causal_mask(jnp.ones(10, bool)), jnp.arange(10)
    whole, _ = run(x, mask, positions)
    _, cache = run(x[:6], mask[:6, :6], positions[:6])
    cache = cache.padded(10)
    step = jax.jit(lambda x, cache, slot: decoder.decode(x, cache, slot, (jnp.arange(10) <= slot)[None], slot))
    for slot in range(6, 10):
        state, cache = step(x[slot][None], cache, jnp.array(slot))
        np.testing.assert_allclose(state[0], whole[slot], atol=1e-5)


def test_recomputing_layers_changes_no_gradient(random_decoder):
    decoder, x = random_decoder
    mask, positions = causal_mask(jnp.ones(10, bool)), jnp.arange(10)

    def gradient(remat):
        config = dataclasses.replace(CONFIG, remat=remat)
        graph, _ = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))
        again = nnx.merge(graph, nnx.state(decoder))
        loss = jax.grad(lambda x: jnp.square(again(x, mask, positions)[0][:, 0]).sum())
        assert ("remat" in str(jax.make_jaxpr(loss)(x))) == (remat != "none")
        return jax.jit(loss)(x)

    for remat in ("attention", "full"):
        np.testing.assert_allclose(gradient(remat), gradient("none"), atol=1e-5)


def test_low_precision_is_kept():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    graph, params = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))
    x = jax.ShapeDtypeStruct((3, 24), jnp.bfloat16)
    states, cache = jax.eval_shape(
        lambda params, x: nnx.merge(graph, params)(x, jnp.ones((1, 3), bool), jnp.arange(3)), params, x
    )
    assert {states.dtype, cache.keys.dtype, cache.values.dtype} == {jnp.dtype("bfloat16")}


def test_eight_billion_parameters_need_no_memory():
    config = DecoderConfig(4096, 32, 32, 8, 128, 14336, 5e5, 1e-5, dtype="bfloat16")
    shapes = nnx.state(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == 8_030_261_248 - 2 * 128256 * 4096  # Llama-3-8B without embeddings and head
