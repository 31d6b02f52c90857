"""MoAI against numbers recorded from the original code, at the tolerances for float32.

All recorded rows of a file, both cases and both language masks, run as one batch, padded to one length: four programs
per file. So these tests also check that padding changes nothing.

Axis letters: B recorded rows, S slots (image first), V vocabulary, L mixers.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.stack import layer_at
from ports.moai.model import MoAIModel
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit
from tests.goldens import find_goldens
from tests.ports.moai.goldens import answers_of, prompts_of, read_golden, rows_of

FEATURES, HIDDEN, LOGITS, LOSS, GRADIENT = 2e-5, 1e-3, 1e-4, 2e-5, 2e-4
RECORDED = [value for value in find_goldens("golden_moai_tiny_*.npz") if not value.values[0].stem.endswith("_decode")]
NUDGE = 1e-5  # of a gate's logit: what two float32 implementations differ by

pytestmark = pytest.mark.parametrize("path", RECORDED)


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@partial(quick_jit, static_argnums=0)
def encode(graph, params, inputs):
    return jax.lax.map(nnx.merge(graph, params).encode, inputs)


@partial(quick_jit, static_argnums=0)
def every_logit(graph, params, features, routing):
    """[B, S, V], with `routing` per row or `None`."""

    def per_sample(item):
        net = nnx.merge(graph, params)
        x, _, _ = net.prefill(*item, every_row=True)
        return net.logits(x)

    return jax.lax.map(per_sample, (features, routing))


@partial(quick_jit, static_argnums=0)
def losses_and_gradients(graph, params, features, values, targets):
    """Of each row: summed cross-entropy of its targets, its gradient with respect to r, and all logits."""

    def per_sample(item):
        features, values, targets = item

        def total(values):
            net = nnx.merge(graph, params)
            x, _, _ = net.prefill(features, Routing(values), every_row=True)
            logits = net.logits(x)
            return cross_entropy(logits, targets), logits

        (loss, logits), gradient = jax.value_and_grad(total, has_aux=True)(values)
        return loss, gradient, logits

    return jax.lax.map(per_sample, (features, values, targets))


def cross_entropy(logits, targets):
    """Summed over rows that have a target; -100 is none."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(targets, 0)[:, None], axis=1)[:, 0]
    return -jnp.where(targets == -100, 0.0, picked).sum()


@cache
def encoded(path):
    golden = read_golden(path)
    graph, params = nnx.split(golden.net(remat="none"))
    with jax.default_matmul_precision("highest"):
        return golden, graph, params, encode(graph, params, rows_of(golden).inputs)


def routing_names(golden, case, mode):
    prefix = f"out/{case}/{mode}/route_"
    return sorted({name.removeprefix(prefix).split("/")[0] for name in golden.arrays if name.startswith(prefix)})


def groups(rows):
    """Rows of each recorded call: (case, mode)."""
    return {key: [i for i, row in enumerate(rows.keys) if row[:2] == key] for key in dict.fromkeys(
        row[:2] for row in rows.keys
    )}  # fmt: skip


def check_logits(rows, number, logits, recorded):
    """Compare where the recorded row is no padding."""
    slots, real = rows.slots[number], rows.real[number]
    np.testing.assert_allclose(np.asarray(logits)[real], recorded[slots[real]], rtol=0, atol=LOGITS)


def test_golden_learned_gates(path):
    golden, graph, params, features = encoded(path)
    rows = rows_of(golden)
    logits = every_logit(graph, params, features, None)
    for (case, mode), numbers in groups(rows).items():
        prefix = f"out/{case}/{mode}/learned"
        for i in numbers:
            check_logits(rows, i, logits[i], golden.arrays[f"{prefix}/logits"][rows.keys[i][2]])
        total = sum(cross_entropy(logits[i], rows.targets[i]) for i in numbers)
        loss = total / sum((rows.targets[i] != -100).sum() for i in numbers)
        np.testing.assert_allclose(loss, golden.arrays[f"{prefix}/loss"], rtol=0, atol=LOSS)


def test_golden_float16_gates(path):
    """Rounding a gate's logit to float16 is discontinuous, and every mixer propagates a jump to all tokens.

    The rounding of a logit near the middle of two float16 numbers depends on float32 noise: two implementations that
    agree to 1e-5 differ in several of hundreds of roundings. So perturbations of the size of that noise are tried, and
    the recorded logits must be met within the tolerance, or else much closer than with float32 gates.
    """
    golden, graph32, params, features = encoded(path)
    graph, _ = nnx.split(golden.net(remat="none", gate_dtype="float16"))
    rows = rows_of(golden)
    recorded = [golden.arrays[f"out/{case}/{mode}/learned_fp16gate/logits"][row] for case, mode, row in rows.keys]

    def distances(logits):
        return np.array(
            [
                np.sqrt(np.square((logits[i] - recorded[i][rows.slots[i]])[rows.real[i]]).mean())
                for i in range(len(rows.keys))
            ]
        )

    zero = Routing(jnp.zeros((len(rows.keys), golden.config.mixers, 6)), "shift")
    of_float32 = distances(np.asarray(every_logit(graph32, params, features, zero)))
    rng, best = np.random.default_rng(0), np.full(len(rows.keys), np.inf)
    for attempt in range(200):
        size = NUDGE * 0.001 ** rng.random() * (attempt > 0)
        nudges = jnp.asarray(size * rng.choice([-1, 0, 1], zero.values.shape), jnp.float32)
        best = np.minimum(best, distances(np.asarray(every_logit(graph, params, features, Routing(nudges, "shift")))))
    assert ((best <= LOGITS) | (best <= of_float32 / 3)).all(), (best, of_float32)


def test_golden_explicit_routing(path):
    """Global, per layer, on and off the simplex: logits, loss, and its gradient with respect to r."""
    golden, graph, params, features = encoded(path)
    rows = rows_of(golden)
    calls = groups(rows)
    for name in routing_names(golden, *next(iter(calls))):
        recorded = {}
        for case, mode in calls:
            prefix = f"out/{case}/{mode}/route_{name}"
            recorded[case, mode] = {part: golden.arrays[f"{prefix}/{part}"] for part in ("r", "grad", "loss", "logits")}
        values = np.zeros((len(rows.keys), golden.config.mixers, 6), np.float32)
        for call, numbers in calls.items():
            values[numbers] = recorded[call]["r"]
        totals, gradients, logits = losses_and_gradients(graph, params, features, values, rows.targets)
        for call, numbers in calls.items():
            expected = recorded[call]
            for i in numbers:
                check_logits(rows, i, logits[i], expected["logits"][rows.keys[i][2]])
            count = (rows.targets[np.array(numbers)] != -100).sum()
            gradient = gradients[np.array(numbers)].sum(axis=0) / count
            gradient = gradient if expected["grad"].ndim == 2 else gradient.sum(axis=0)
            np.testing.assert_allclose(totals[np.array(numbers)].sum() / count, expected["loss"], rtol=0, atol=LOSS)
            atol = GRADIENT * np.abs(expected["grad"]).max()
            np.testing.assert_allclose(gradient, expected["grad"], rtol=0, atol=atol)


def test_golden_through_the_contract(path):
    """Encoding the prompt and running the answer over its cache equals the recording without answers in the mask."""
    golden, graph, params, _ = encoded(path)
    rows, model = rows_of(golden), MoAIModel(golden.config, graph)
    features = encode(graph, params, prompts_of(golden, rows))
    answers = answers_of(golden, rows)

    @quick_jit
    def losses(features, values, answers):
        def per_sample(item):
            features, values, answer = item
            value = jax.value_and_grad(lambda r: model.answer_loss(params, features, Routing(r), answer))(values)
            return jax.tree.map(lambda leaf: leaf * answer.mask.sum(), value)

        return jax.lax.map(per_sample, (features, values, answers))

    calls = {call: numbers for call, numbers in groups(rows).items() if call[1] == "prompt"}
    for name in routing_names(golden, *next(iter(calls))):
        values = np.zeros((len(rows.keys), golden.config.mixers, 6), np.float32)
        for (case, mode), numbers in calls.items():
            values[numbers] = golden.arrays[f"out/{case}/{mode}/route_{name}/r"]
        totals, gradients = losses(features, values, answers)
        for (case, mode), numbers in calls.items():
            prefix, at = f"out/{case}/{mode}/route_{name}", np.array(numbers)
            count, expected = answers.mask[at].sum(), golden.arrays[f"{prefix}/grad"]
            gradient = gradients[at].sum(axis=0) / count
            gradient = gradient if expected.ndim == 2 else gradient.sum(axis=0)
            np.testing.assert_allclose(totals[at].sum() / count, golden.arrays[f"{prefix}/loss"], rtol=0, atol=LOSS)
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=GRADIENT * np.abs(expected).max())


@partial(quick_jit, static_argnums=0)
def run_plain(graph, params, number, x, place):
    net = nnx.merge(graph, params)
    return net.run_layer(layer := layer_at(net.plain, number), x, layer.input_layernorm(x), place)[0]


@partial(quick_jit, static_argnums=0)
def run_mixed(graph, params, number, x, features):
    net, place = nnx.merge(graph, params), features.layout
    layer = layer_at(net.mixed, number)
    h = layer.input_layernorm(x)
    outputs = layer.mixer.run_experts(h, features.latents, place.language)
    weights = layer.mixer.gate_weights(h, None)
    mixed = layer.mixer.combine_experts(h, outputs, weights, place.language)
    return h, outputs, weights, mixed, net.run_layer(layer, x, mixed, place)[0]


def test_golden_intermediate_arrays(path):
    """Features, every layer's state, every mixer's input, gates, outputs and result, the final norm."""
    golden, graph, params, features = encoded(path)
    net, rows, config = nnx.merge(graph, params), rows_of(golden), golden.config
    for i, (case, mode, row) in enumerate(rows.keys):
        if mode != "prompt":
            continue
        slots, real = rows.slots[i], rows.real[i]
        recorded = {
            name.split("/")[-1]: value[row] if value.ndim and "row0" not in name else value
            for name, value in golden.arrays.items()
            if name.startswith(f"out/{case}/prompt/learned/")
        }
        images, mine = config.image_tokens, jax.tree.map(lambda leaf, i=i: leaf[i], features)
        x = jnp.concatenate([recorded["image_features"], net.embed(rows.inputs.tokens[i])])
        np.testing.assert_allclose(mine.latents, recorded["comp_aux"], rtol=0, atol=FEATURES)
        np.testing.assert_allclose(x[real], recorded["inputs_embeds"][slots[real]], rtol=0, atol=FEATURES)

        def check(ours, name, recorded=recorded, real=real, slots=slots):
            np.testing.assert_allclose(
                np.asarray(ours)[real], recorded[name][slots[real]], rtol=0, atol=HIDDEN, err_msg=name
            )

        plain = mixer = 0
        for number in range(config.layers):
            if number in config.mixer_layers:
                h, outputs, weights, mixed, x = run_mixed(graph, params, mixer, x, mine)
                check(h, f"mixer{mixer}_in")
                check(mixed, f"mixer{mixer}_out")
                language = np.asarray(mine.layout.language)
                for side, ours, chosen in (
                    ("img", weights.image, np.arange(images)),
                    ("lang", weights.language, images + np.flatnonzero(language)),
                ):
                    expected = recorded[f"gate_{side}_{mixer}"][slots[chosen]]
                    inside = ours.T if side == "img" else ours.T[language]
                    np.testing.assert_allclose(inside, expected, rtol=0, atol=HIDDEN)
                if mixer == 0 and row == 0:
                    check_experts(recorded, outputs, language)
                mixer += 1
            else:
                x = run_plain(graph, params, plain, x, mine.layout)
                plain += 1
            check(x, f"hidden_after_layer_{number}")
        check(net.norm(x), "final_norm")


def check_experts(recorded, outputs, language):
    for side, rows, names in (
        (outputs.image, slice(None), ("CA_img_aux", "CA_img_lang", "SA_img")),
        (outputs.language, language, ("CA_lang_aux", "CA_lang_img", "SA_lang")),
    ):
        for ours, name in zip(side, names, strict=True):
            np.testing.assert_allclose(ours[rows], recorded[f"mixer0_row0_moai_{name}"], rtol=0, atol=HIDDEN)


def test_golden_vision(path):
    """The tower's patches and the projector's tokens, and the normalized pixels they are made of."""
    from ports.moai.vision import color_table, normalize

    golden, graph, params, _ = encoded(path)
    net = nnx.merge(graph, params)
    for case in golden.cases:
        arrays = {name: golden.arrays[f"in/{case}/{name}"] for name in (
            "image_uint8", "pixel_values", "seg_ids", "map_rgb", "map_pixel_values"
        )}  # fmt: skip
        pixels = normalize(arrays["image_uint8"][0].transpose(1, 2, 0), "float32")
        np.testing.assert_allclose(pixels, arrays["pixel_values"][0].transpose(1, 2, 0), rtol=0, atol=1e-6)
        colors = color_table()[arrays["seg_ids"][0]]
        np.testing.assert_allclose(colors, arrays["map_rgb"][0].transpose(1, 2, 0), rtol=0, atol=1e-6)
        colors = normalize(colors.astype(np.float16), "float32")
        np.testing.assert_allclose(colors, arrays["map_pixel_values"][0].transpose(1, 2, 0), rtol=0, atol=1e-6)
        patches = quick_jit(net.vision.tower)(pixels)
        recorded = {name: golden.arrays[f"out/{case}/prompt/learned/{name}"][0] for name in (
            "vit_features", "image_features"
        )}  # fmt: skip
        np.testing.assert_allclose(patches, recorded["vit_features"], rtol=0, atol=FEATURES)
        np.testing.assert_allclose(net.vision.project(patches), recorded["image_features"], rtol=0, atol=FEATURES)
