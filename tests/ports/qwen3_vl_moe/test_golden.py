"""Qwen3-VL-MoE against transformers' recorded numbers: positions, tower, decoder, router, generation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.qwen_vl.geometry import mrope_positions, patch_places
from tests.compile_counts import quick_jit
from tests.goldens import find_goldens
from tests.ports.qwen3_vl_moe.recorded import (
    patches_of,
    prompt_inputs,
    prompt_of,
    prompts,
    recorded,
    rows_of,
    stacked,
)

GOLDENS = find_goldens("qwen3_vl_moe_?.npz")
VISION, HIDDEN, WEIGHTS, LOGITS, LOSS = 3e-5, 5e-5, 2e-5, 1e-4, 3e-5


def close(actual, expected, tolerance, key=""):
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=0, err_msg=key)


@pytest.mark.parametrize("path", GOLDENS)
def test_positions_of_tokens_and_patches(path):
    golden = recorded(path)
    vision = golden.config.vision
    for name in golden.sets():
        for row, length in zip(rows_of(golden, name), golden.arrays[f"{name}/rope_deltas"].ravel(), strict=True):
            positions, following = mrope_positions(row.kinds, row.images, row.videos, vision.merge)
            np.testing.assert_array_equal(positions, row.positions)
            assert following - len(row.tokens) == length
        for part, key in (("vision", "image_grid_thw"), ("vision_video", "video_grid_thw")):
            if f"{name}/{part}/interp_indices" in golden.arrays:
                places = patch_places(golden.arrays[f"{name}/{key}"].tolist(), vision.side, vision.merge)
                np.testing.assert_array_equal(places.place, golden.arrays[f"{name}/{part}/patch_hw"])
                near = golden.arrays[f"{name}/{part}/interp_weights"] > 1e-6  # elsewhere the index does not matter
                recorded_corners = golden.arrays[f"{name}/{part}/interp_indices"]
                np.testing.assert_array_equal(places.corners[near], recorded_corners[near])
                close(places.shares, golden.arrays[f"{name}/{part}/interp_weights"], 1e-5)


@pytest.mark.parametrize("path", GOLDENS)
def test_the_tower_gives_the_recorded_states(path):
    golden = recorded(path)
    cases = [
        (f"{name}/{part}", golden.arrays[f"{name}/{values}"], golden.arrays[f"{name}/{grids}"].tolist())
        for name in golden.sets()
        for part, values, grids in (
            ("vision", "pixel_values", "image_grid_thw"),
            ("vision_video", "pixel_values_videos", "video_grid_thw"),
        )
        if f"{name}/{part}/merger" in golden.arrays
    ]
    length, merge = max(len(pixels) for _, pixels, _ in cases), golden.config.vision.merge**2
    batch = stacked([patches_of(golden, pixels, grids, length) for _, pixels, grids in cases])

    @quick_jit
    def run(params, batch):
        tower = nnx.merge(golden.graph, params).visual
        return jax.vmap(lambda patches: (tower.embed(patches), *tower.run(patches, record=True)))(batch)

    embedded, merged, levels, states = run(golden.params, batch)
    for i, (prefix, pixels, _) in enumerate(cases):
        n, arrays = len(pixels), golden.arrays
        close(embedded[i, :n], arrays[f"{prefix}/embed"], VISION, prefix)
        close(merged[i, : n // merge], arrays[f"{prefix}/merger"], VISION, prefix)
        for j in range(levels.shape[1]):
            close(levels[i, j, : n // merge], arrays[f"{prefix}/deepstack{j}"], VISION, prefix)
        for j in range(states.shape[1]):
            close(states[i, j, :n], arrays[f"{prefix}/block{j}"], VISION, prefix)


@pytest.mark.parametrize("path", GOLDENS)
def test_states_router_and_logits_are_the_recorded_ones(path):
    golden = recorded(path)
    model, arrays, rows, names = golden.model(), golden.arrays, [], []
    for name in golden.sets():
        for number, row in enumerate(rows_of(golden, name)):
            rows.append(row)
            names.append((name, number))
    length, patches = max(len(row.tokens) for row in rows), max(len(row.pixels) for row in rows)
    from ports.common.qwen_vl.model import VLInputs

    batch = stacked(
        [
            VLInputs(
                prompt_of(row.tokens, row.kinds, row.positions, 0, length),
                patches_of(golden, row.pixels, row.grids, patches),
            )
            for row in rows
        ]
    )

    @quick_jit
    def run(params, batch):
        def sample(inputs):
            prompt, x, added = model.embed(params, inputs)
            net = model.decoder(params)
            last, out = net.run(x, prompt.positions, prompt.mask, added=added, record=True)
            return x, out, net.norm(last), net.logits(last)

        return jax.vmap(sample)(batch)

    embedded, out, final, logits = run(golden.params, batch)
    for i, ((name, number), row) in enumerate(zip(names, rows, strict=True)):
        n = len(row.tokens)
        place = slice(row.start, row.start + n)

        def same(actual, key, tolerance, name=name, number=number, place=place, n=n):
            close(actual[-n:], arrays[f"{name}/base/{key}"][number, place], tolerance, f"{name}/{key}")

        same(embedded[i], "hidden/embed", HIDDEN)
        same(final[i], "hidden/final", HIDDEN)
        same(logits[i], "logits", LOGITS)
        for layer in range(golden.config.decoder.layers):
            same(out.state[i, layer], f"hidden/layer{layer}", HIDDEN)
            if f"{name}/base/hidden/layer{layer}_before_deepstack" in arrays:
                same(out.before[i, layer], f"hidden/layer{layer}_before_deepstack", HIDDEN)
            same(out.choice.logits[i, layer], f"router/layer{layer}/logits", HIDDEN)
            same(out.weights[i, layer], f"router/layer{layer}/dense", WEIGHTS)
            same(out.choice.weights[i, layer], f"router/layer{layer}/topk_weights", WEIGHTS)
            same(out.choice.ids[i, layer], f"router/layer{layer}/topk_indices", 0)
        for scope in ("all", "image", "text"):
            marked = arrays[f"{name}/scope/{scope}"][number, place]
            mean = np.asarray(out.weights)[i, :, -n:][:, marked].sum(axis=1) / max(marked.sum(), 1)
            close(mean, arrays[f"{name}/base/route/mean_{scope}"][number], WEIGHTS, name)


@pytest.mark.parametrize("path", GOLDENS)
def test_the_prompt_state_and_greedy_tokens_are_the_recorded_ones(path):
    golden = recorded(path)
    model, arrays = golden.model(), golden.arrays
    sets = [name for name in golden.sets() if f"{name}/generate/tokens" in arrays]
    lengths = [len(tokens) for name in sets for _, tokens, *_ in prompts(golden, name)]
    pixels = max(len(row.pixels) for name in sets for row in rows_of(golden, name))
    inputs = prompt_inputs(golden, sets, max(lengths), pixels)
    count = arrays[f"{sets[0]}/generate/tokens"].shape[1]

    @quick_jit
    def run(params, inputs):
        def sample(inputs):
            features = model.encode(params, inputs)
            _, cache = model._prefill(model.decoder(params), features, None)
            return model.greedy(params, features, None, count), cache

        return jax.vmap(sample)(inputs)

    (tokens, logits), cache = run(golden.params, inputs)
    at = 0
    for name in sets:
        stop = at + len(arrays[f"{name}/generate/tokens"])
        np.testing.assert_array_equal(tokens[at:stop], arrays[f"{name}/generate/tokens"])
        close(logits[at:stop], arrays[f"{name}/generate/logits"], LOGITS, name)
        for row in range(at, stop):
            n = lengths[row]
            for layer in range(golden.config.decoder.layers):
                for part, leaf in (("k", cache.keys), ("v", cache.values)):
                    expected = arrays[f"{name}/prompt_state/layer{layer}/{part}"][row - at][:, -n:]
                    close(jnp.swapaxes(leaf[row, layer, -n:], 0, 1), expected, HIDDEN, f"{name} layer {layer} {part}")
        at = stop
