"""The CLIP tower against transformers, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.clip_vit import ClipVit, ClipVitConfig, clip_leaves
from tests.ports.common.torch_weights import filled, tensors_of

CONFIG = ClipVitConfig(image_size=20, patch_size=4, width=24, layers=3, heads=3, hidden=40)


@pytest.mark.parametrize("remat", [False, True])
def test_every_block_equals_transformers(remat):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            image_size=20,
            patch_size=4,
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=40,
        )
    ).eval()
    tensors = tensors_of(theirs)
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in tensors) else ""
    config = ClipVitConfig(**{**vars(CONFIG), "remat": remat})
    leaves = clip_leaves("vit", prefix, config)
    ours = filled(lambda: nnx.Dict(vit=ClipVit(config, nnx.Rngs(0))), leaves, tensors)["vit"]
    pixels = np.random.default_rng(0).normal(size=(20, 20, 3)).astype("f4")
    with torch.no_grad():
        states = theirs(torch.tensor(pixels.transpose(2, 0, 1)[None]), output_hidden_states=True).hidden_states
    run = jax.jit(lambda pixels: [ours(pixels, blocks) for blocks in range(4)] + [ours(pixels)])
    *outputs, whole = run(pixels)
    for actual, expected in zip(outputs, states, strict=True):
        np.testing.assert_allclose(actual, expected[0, 1:].numpy(), atol=2e-5)
    np.testing.assert_allclose(whole, outputs[-1], atol=1e-6)


def test_low_precision_is_kept():
    ours = nnx.eval_shape(lambda: ClipVit(ClipVitConfig(**{**vars(CONFIG), "dtype": "bfloat16"}), nnx.Rngs(0)))
    graph, params = nnx.split(ours)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    pixels = jax.ShapeDtypeStruct((20, 20, 3), jnp.float32)
    assert jax.eval_shape(lambda params, pixels: nnx.merge(graph, params)(pixels), params, pixels).dtype == jnp.bfloat16
