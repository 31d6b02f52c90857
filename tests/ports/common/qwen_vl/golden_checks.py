"""The multimodal Qwen models against transformers' recorded numbers: positions, tower, decoder, router, generation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ports.common.layers.decoder import KVCache
from ports.common.qwen_vl.geometry import mrope_positions, patch_places
from ports.common.qwen_vl.model import VLInputs
from tests.compile_counts import quick_jit
from tests.ports.common.qwen_vl.recorded import (
    patches_of,
    prompt_inputs,
    prompt_of,
    prompts,
    recorded,
    rows_of,
    stacked,
)

VISION = 3e-5


class Tolerances(NamedTuple):
    hidden: float
    weights: float
    logits: float
    loss: float
    gradient: float  # a share of the largest entry


def close(actual, expected, tolerance, key=""):
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=0, err_msg=key)


def check_positions(path):
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


def check_tower(path):
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


def check_states(path, tolerances):
    golden = recorded(path)
    model, arrays, rows, names = golden.model(), golden.arrays, [], []
    for name in golden.sets():
        for number, row in enumerate(rows_of(golden, name)):
            rows.append(row)
            names.append((name, number))
    length, patches = max(len(row.tokens) for row in rows), max(len(row.pixels) for row in rows)
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

        same(embedded[i], "hidden/embed", tolerances.hidden)
        same(final[i], "hidden/final", tolerances.hidden)
        same(logits[i], "logits", tolerances.logits)
        for layer in range(golden.config.decoder.layers):
            same(out.state[i, layer], f"hidden/layer{layer}", tolerances.hidden)
            if f"{name}/base/hidden/layer{layer}_before_deepstack" in arrays:
                same(out.before[i, layer], f"hidden/layer{layer}_before_deepstack", tolerances.hidden)
            same(out.choice.logits[i, layer], f"router/layer{layer}/logits", tolerances.hidden)
            same(out.weights[i, layer], f"router/layer{layer}/dense", tolerances.weights)
            same(out.choice.weights[i, layer], f"router/layer{layer}/topk_weights", tolerances.weights)
            same(out.choice.ids[i, layer], f"router/layer{layer}/topk_indices", 0)
        for scope in ("all", "image", "text"):
            marked = arrays[f"{name}/scope/{scope}"][number, place]
            mean = np.asarray(out.weights)[i, :, -n:][:, marked].sum(axis=1) / max(marked.sum(), 1)
            close(mean, arrays[f"{name}/base/route/mean_{scope}"][number], tolerances.weights, name)


def check_generation(path, tolerances):
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
            return model.greedy(params, features, None, count), cache, model.record_routes(params, inputs, count)

        return jax.vmap(sample)(inputs)

    (tokens, logits), cache, (again, routes) = run(golden.params, inputs)
    np.testing.assert_array_equal(again, tokens)
    _check_prompt_routes(golden, sets, routes, max(lengths), tolerances)
    at = 0
    for name in sets:
        stop = at + len(arrays[f"{name}/generate/tokens"])
        np.testing.assert_array_equal(tokens[at:stop], arrays[f"{name}/generate/tokens"])
        close(logits[at:stop], arrays[f"{name}/generate/logits"], tolerances.logits, name)
        for row in range(at, stop):
            n = lengths[row]
            for layer in range(golden.config.decoder.layers):
                for part, actual in _kept(golden.config.decoder, cache, row, layer, n):
                    expected = arrays[f"{name}/prompt_state/layer{layer}/{part}"][row - at]
                    expected = expected[:, -n:] if part in "kv" else expected
                    expected = expected[:, 1:] if part == "conv" else expected  # a step reads the last three of four
                    close(actual, expected, tolerances.hidden, f"{name} layer {layer} {part}")
        at = stop


def _check_prompt_routes(golden, sets, routes, length, tolerances):
    """Routes that were recorded while answering are those of the recorded forward pass."""
    samples = [(name, number, *each) for name in sets for number, each in enumerate(prompts(golden, name))]
    for i, (name, number, row, tokens, kinds, *_) in enumerate(samples):
        place, real = slice(row.start, row.start + len(tokens)), slice(length - len(tokens), length)
        np.testing.assert_array_equal(routes.tokens[i, real], tokens)
        np.testing.assert_array_equal(routes.kinds[i, real], kinds > 0)  # text, or image and video
        for layer in range(golden.config.decoder.layers):
            router = f"{name}/base/router/layer{layer}"
            ids = golden.arrays[f"{router}/topk_indices"][number, place]
            weights = golden.arrays[f"{router}/topk_weights"][number, place]
            np.testing.assert_array_equal(routes.experts[i, real, layer], ids)
            close(routes.weights[i, real, layer], weights, tolerances.weights + 5e-4, router)  # rounded to float16


def _kept(config, cache, row, layer, n):
    """Name and value of what a layer keeps of a row's prompt, in the record's order of axes."""
    if isinstance(cache, KVCache):
        place, keys_values = layer, cache
    elif layer in config.full:
        place, keys_values = config.place(layer), cache.attention
    else:
        conv, recurrent = cache.delta.conv[row], cache.delta.recurrent[row]
        place = config.place(layer)
        return (("conv", conv[place].T), ("recurrent", recurrent[place]))
    leaves = (("k", keys_values.keys), ("v", keys_values.values))
    return [(part, jnp.swapaxes(leaf[row, place, -n:], 0, 1)) for part, leaf in leaves]
