"""Imposed routing in the multimodal Qwen models against transformers' recorded numbers, with gradients, generation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ports.common.layers.routed_experts import RoutedRows
from ports.common.qwen_vl.model import VLInputs
from r2t2_jax.routing import Routing
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


def load(path):
    golden = recorded(path.with_name(path.name.replace("_routing", "")))
    with np.load(path) as stored:
        return golden, {name: stored[name] for name in stored.files}


def cases_of(runs, mode):
    return sorted({key.rsplit("/", 1)[0] for key in runs if key.split("/")[1] == mode})


@partial(quick_jit, static_argnames=("model", "mode", "layers"))
def forward(params, batch, *, model, mode, layers):
    """Loss, next loss, logits, weights and the gradient of the loss that counts, for a batch of rows."""

    def losses(values):
        def sample(row, values):
            prompt, x, added = model.embed(params, row["inputs"])
            span = len(prompt.tokens)
            rows = row["rows"] if mode != "select" else None
            net = model.decoder(params)
            routed = RoutedRows(values, rows, mode, layers, span)
            last, out = net.run(x, prompt.positions, prompt.mask, routed=routed, added=added)
            logits = net.logits(last)
            logprobs = jax.nn.log_softmax(logits)
            labels = row["labels"][1:]
            picked = jnp.take_along_axis(logprobs[:-1], jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
            loss = -jnp.where(labels >= 0, picked, 0).sum() / (labels >= 0).sum()
            next_loss = -logprobs[-1, row["next_target"]]
            return jnp.where(row["last"], next_loss, loss), (loss, next_loss, logits, out.choice.weights)

        counted, rest = jax.vmap(sample)(batch, values)
        return counted.sum(), rest

    values = batch["values"]
    if mode == "select":
        return losses(values)[1], None
    gradient, rest = jax.grad(losses, has_aux=True)(values)
    return rest, gradient


def batch_of(golden, runs, mode, prefixes):
    """All rows of some runs as one batch, padded on the left to one length."""
    key = {"override": "weights", "shift": "shift", "select": "ids"}[mode]
    every = {name: rows_of(golden, name) for name in dict.fromkeys(prefix.split("/")[0] for prefix in prefixes)}
    length = max(len(row.tokens) for rows in every.values() for row in rows)
    pixels = max(len(row.pixels) for rows in every.values() for row in rows) or golden.config.vision.merge**2
    layers, top_k = golden.config.decoder.layers, golden.config.decoder.top_k
    samples, places = [], []
    for prefix in prefixes:
        name, _, layer_set, scope, _ = prefix.split("/")
        imposed = golden.described["layer_sets"][layer_set]
        for number, row in enumerate(every[name]):
            n = len(row.tokens)
            place = slice(row.start, row.start + n)
            values = runs[f"{prefix}/{key}"][number]
            marked = np.pad(golden.arrays[f"{name}/scope/{scope}"][number, place], (length - n, 0))
            if mode == "shift":
                whole = np.zeros((layers, values.shape[-1]), np.float32)
                whole[imposed] = values
                values = whole
            if mode == "select":
                whole = np.full((layers, length, top_k), -1, np.int32)
                token = values[:, place] if values.ndim == 3 else np.repeat(values[:, None], n, axis=1)
                whole[imposed, length - n :] = token
                values = np.where(marked[None, :, None], whole, -1)
            labels = np.pad(golden.arrays[f"{name}/labels"][number, place], (length - n, 0), constant_values=-100)
            samples.append(
                {
                    "inputs": VLInputs(
                        prompt_of(row.tokens, row.kinds, row.positions, 0, length),
                        patches_of(golden, row.pixels, row.grids, pixels),
                    ),
                    "rows": marked,
                    "labels": labels,
                    "next_target": golden.arrays[f"{name}/next_target"][number],
                    "last": np.asarray(scope == "last"),
                    "values": values,
                }
            )
            places.append((prefix, number, row, place, imposed))
    return stacked(samples), places


def _check(golden, runs, places, rest, gradient, tolerances):
    loss, next_loss, logits, weights = (np.asarray(leaf) for leaf in rest)
    for i, (prefix, number, row, place, imposed) in enumerate(places):
        n = len(row.tokens)
        close = partial(np.testing.assert_allclose, rtol=0, err_msg=prefix)
        close(loss[i], runs[f"{prefix}/loss"][number], atol=tolerances.loss)
        close(next_loss[i], runs[f"{prefix}/next_loss"][number], atol=tolerances.loss)
        if f"{prefix}/logits" in runs:
            close(logits[i, -n:], runs[f"{prefix}/logits"][number, place], atol=tolerances.logits)
        else:
            name = prefix.split("/")[0]
            answer = golden.described["prompt_answer_lengths"][name][number][1]
            expected = runs[f"{prefix}/answer_logits"][number, : answer + 1]
            close(logits[i, -answer - 1 :], expected, atol=tolerances.logits)
        if gradient is not None:
            # Rows are independent; a share of the largest entry of the whole array.
            expected = runs[f"{prefix}/grad"]
            own = np.asarray(gradient[i])
            own = own if own.shape == expected[number].shape else own[imposed]
            # A shift does not move the weight of a token's only expert, which is one: its gradient is rounding.
            least = 1e-12 if golden.config.decoder.top_k > 1 else 1e-3
            close(own, expected[number], atol=tolerances.gradient * max(np.abs(expected).max(), least))
        if f"{prefix}/ids" in runs:
            chosen, expected = runs[f"{prefix}/weights"][number][:, place], weights[i][imposed][:, -n:]
            scope = golden.arrays[f"{prefix.split('/')[0]}/scope/{prefix.split('/')[3]}"][number, place]
            close(expected[:, scope], chosen[:, scope], atol=tolerances.weights)


def check_override(path, layer_set, tolerances, long=False):
    """All runs of a layer set but those of the long prompt, or only these: others are not padded to its length."""
    golden, runs = load(path)
    prefixes = [
        prefix
        for prefix in cases_of(runs, "override")
        if prefix.split("/")[2] == layer_set and prefix.startswith("long/") == long
    ]
    if not prefixes:
        return
    batch, places = batch_of(golden, runs, "override", prefixes)
    layers = tuple(golden.described["layer_sets"][layer_set])
    rest, gradient = forward(golden.params, batch, model=golden.model(), mode="replace", layers=layers)
    _check(golden, runs, places, rest, gradient, tolerances)


def check_shift_or_select(path, mode, tolerances):
    golden, runs = load(path)
    batch, places = batch_of(golden, runs, mode, cases_of(runs, mode))
    layers = tuple(range(golden.config.decoder.layers))
    rest, gradient = forward(golden.params, batch, model=golden.model(), mode=mode, layers=layers)
    _check(golden, runs, places, rest, gradient, tolerances)


def check_routed_generation(path, tolerances):
    golden, runs = load(path)
    model = golden.model()
    cases = cases_of(runs, "override_generate")
    sets = [prefix.split("/")[0] for prefix in cases]
    longest = max(len(tokens) for name in sets for _, tokens, *_ in prompts(golden, name))
    pixels = max(len(row.pixels) for name in sets for row in rows_of(golden, name))
    inputs = prompt_inputs(golden, sets, longest, pixels)
    values = jnp.asarray(np.concatenate([runs[f"{prefix}/weights"] for prefix in cases]))
    count = runs[f"{cases[0]}/tokens"].shape[1]

    @quick_jit
    def run(params, inputs, values):
        def sample(inputs, values):
            return model.greedy(params, model.encode(params, inputs), Routing(values), count)

        return jax.vmap(sample)(inputs, values)

    tokens, logits = run(golden.params, inputs, values)
    np.testing.assert_array_equal(tokens, np.concatenate([runs[f"{prefix}/tokens"] for prefix in cases]))
    expected = np.concatenate([runs[f"{prefix}/logits"] for prefix in cases])
    np.testing.assert_allclose(logits, expected, atol=tolerances.logits, rtol=0)
