"""OLMoE and Qwen3-MoE against transformers' recorded numbers: base, and imposed routing with gradients."""

import json
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.checkpoint.mapping import assemble, check, from_manifest
from ports.common.layers.moe_decoder import abstract
from ports.common.layers.routed_experts import RoutedRows
from ports.common.moe_lm.params import moe_decoder_leaves
from ports.olmoe import config as olmoe
from ports.qwen3_moe import config as qwen3_moe
from tests.compile_counts import quick_jit
from tests.goldens import find_goldens
from tests.ports.common.moe_lm.recorded import Batch, pad_rows, whole_forward

FAMILIES = {"olmoe": olmoe.from_upstream, "qwen3_moe": qwen3_moe.from_upstream}
GOLDENS = find_goldens("moe_*_?.npz")
HIDDEN, LOGITS, WEIGHTS, LOSS = 2e-5, 1e-4, 1e-5, 2e-5


@cache
def model(path):
    described = json.loads(path.with_suffix(".json").read_text())
    if described["family"] not in FAMILIES:
        pytest.skip(f"no port of {described['family']}")
    arrays = np.load(path)
    config = FAMILIES[described["family"]](described["config"])
    weights = {name[2:]: arrays[name] for name in arrays.files if name.startswith("w/")}
    leaves = moe_decoder_leaves("", "model.", "", config)
    graph, shapes = abstract(config)
    check(leaves, from_manifest({name: (leaf.shape, "float32") for name, leaf in weights.items()}), shapes)
    return described, arrays, nnx.merge(graph, assemble(leaves, weights.__getitem__, shapes))


@cache
def batch(path, name):
    _, arrays, _ = model(path)
    return Batch.of(arrays, name)


@pytest.mark.parametrize("name", ["single", "right", "left"])
@pytest.mark.parametrize("path", GOLDENS)
def test_states_router_and_logits_are_the_recorded_ones(path, name):
    described, arrays, net = model(path)
    rows = batch(path, name)
    out = whole_forward(net, rows)

    def close(actual, key, tolerance):
        actual = np.where(rows.mask.reshape(rows.mask.shape + (1,) * (np.ndim(actual) - 2)), actual, 0)
        np.testing.assert_allclose(actual, arrays[f"{name}/base/{key}"], atol=tolerance, rtol=0, err_msg=key)

    close(out.logits, "logits", LOGITS)
    for i in described["routed_layers"]:
        close(out.states[:, i], f"hidden/layer{i}", HIDDEN)
        close(out.router[:, i], f"router/layer{i}/logits", HIDDEN)
        close(out.weights[:, i], f"router/layer{i}/dense", WEIGHTS)
        chosen = np.where(rows.mask[..., None] > 0, out.ids[:, i], -1)
        np.testing.assert_array_equal(chosen, arrays[f"{name}/base/router/layer{i}/topk_indices"])
    np.testing.assert_allclose(out.loss, arrays[f"{name}/base/loss"], atol=LOSS)
    np.testing.assert_allclose(out.next_loss, arrays[f"{name}/base/next_loss"], atol=LOSS)


def overrides(path):
    return sorted(
        {tuple(key.split("/")[:1] + key.split("/")[2:5]) for key in np.load(path).files if "/override/" in key}
    )


@partial(quick_jit, static_argnames=("graph", "layers"))
def loss_and_gradient(params, rows, mask, values, of_next, *, graph, layers):
    def loss(values):
        routed = RoutedRows(values, mask, "replace", layers, mask.shape[1])
        out = whole_forward(nnx.merge(graph, params), rows, routed)
        return jnp.where(of_next, out.next_loss, out.loss).sum(), (out.logits, out.loss, out.next_loss)

    return jax.grad(loss, has_aux=True)(values)


@pytest.mark.parametrize("path", GOLDENS)
def test_every_imposed_routing_gives_the_recorded_loss_and_gradient(path):
    described, arrays, net = model(path)
    graph, params = nnx.split(net)
    cases = overrides(path)
    batches = [batch(path, name) for name in dict.fromkeys(case[0] for case in cases)]
    size, length = max(len(rows.tokens) for rows in batches), max(rows.tokens.shape[1] for rows in batches)
    for name, layers, scope, kind in cases:
        rows, prefix = batch(path, name), f"{name}/override/{layers}/{scope}/{kind}"
        count, tokens = rows.tokens.shape
        imposed, mask = tuple(described["layer_sets"][layers]), arrays[f"{name}/scope/{scope}"]
        gradient, (logits, loss, next_loss) = loss_and_gradient(
            params,
            rows.padded(size, length),
            pad_rows(mask, size, length),
            pad_rows(arrays[f"{prefix}/weights"], size),
            scope == "last",
            graph=graph,
            layers=imposed,
        )
        real = rows.mask[..., None] > 0
        close = partial(np.testing.assert_allclose, rtol=0, err_msg=prefix)
        close(np.where(real, logits[:count, :tokens], 0), arrays[f"{prefix}/logits"], atol=LOGITS)
        close(loss[:count], arrays[f"{prefix}/loss"], atol=LOSS)
        close(next_loss[:count], arrays[f"{prefix}/next_loss"], atol=LOSS)
        recorded = arrays[f"{prefix}/grad"]
        close(gradient[:count], recorded, atol=2e-4 * np.abs(recorded).max())
