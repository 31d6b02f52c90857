"""Neighbours weighted by their images too: the formula, its limits, and every way in which a strategy meets it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.bank.atlas import Atlas
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation import image_kernel
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import prepare, set_up
from r2t2_jax.evaluation.image_kernel import ReferenceImages, weigh_by_image
from r2t2_jax.evaluation.records import collect_bank
from r2t2_jax.evaluation.tune import tuning_bench
from r2t2_jax.evaluation.tuning_grid import grid_presets
from r2t2_jax.inference import answer
from r2t2_jax.method.forward import normalized_probe
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import _reroute_samples
from r2t2_jax.methods import STRATEGIES, baseline, strategy
from r2t2_jax.metrics import get_metric
from tests.toy_port import SPEC, ToyModel, make_samples, toy

METRIC, PORT = get_metric("exact_match"), toy()
QUESTIONS = Preset(atlas_k=6, atlas_trust=0.0, bandwidth=0.8)
IMAGES = dataclasses.replace(QUESTIONS, atlas_image_bandwidth=0.5)
N = 9
ROWS = np.arange(N)
READERS = ("atlas", "atlas_argmin", "atlas_polished", "atlas_descent", "atlas_taylor", "atlas_top8")


def made(name, preset):
    return baseline(name, preset) if name == "atlas_top8" else strategy(name, preset)


@pytest.fixture(scope="module")
def bank():
    bank = collect_bank(PORT, make_samples(60, seed=1, told=0.5), METRIC, keep_wrong=True)
    rng = np.random.default_rng(0)
    points = rng.dirichlet(np.ones(3), (5, 2)).astype(np.float32)
    losses, slopes = rng.integers(0, 256, (60, 5), np.uint8), rng.normal(size=(60, 2, 3)).astype(np.float16)
    ids = tuple(str(record["id"]) for record in bank.records)
    return dataclasses.replace(bank, atlas=Atlas(points, losses, slopes, PORT.fingerprint, SPEC.experts, ids))


@pytest.fixture(scope="module")
def questions():
    return encode_questions(PORT, make_samples(N, seed=2, told=0.3))


def answers(bank, questions, rows=ROWS, **methods):
    evaluation = prepare(PORT, bank, questions, methods, METRIC)
    return {name: jax.tree.map(np.asarray, evaluation.answer(name, rows)) for name in methods}


def test_the_formula_by_hand():
    weights = jnp.array([[2.0, 1.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    seen = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    references = jnp.tile(jnp.array([[0.0, 1.0], [0.6, 0.8], [-1.0, 0.0], [1.0, 0.0]]), (2, 1, 1))
    # Squared distances 2, 0.8, 4 and 0; the last has no weight, so 0.8 is the nearest that counts and the median is the
    # first. With h = 0.8 medians, 2 h^2 is 2.56.
    found = weigh_by_image(weights, seen, references, 0.8)
    expected = [2 * np.exp(-1.2 / 2.56), 1.0, 4 * np.exp(-3.2 / 2.56), 0.0]
    np.testing.assert_allclose(found, [expected, [0, 0, 0, 0]], rtol=1e-5)
    plain = np.array([2.0, 1.0, 4.0]) * np.exp(-np.array([2, 0.8, 4]) / 2.56)
    np.testing.assert_allclose(found[0, :3] / found[0].sum(), plain / plain.sum(), rtol=1e-5)
    narrow = weigh_by_image(weights, seen, references, 1e-3)
    np.testing.assert_array_equal(narrow[0], [0, 1, 0, 0])  # one neighbour is left, not none


def test_what_an_image_looks_like_is_computed_in_batches_when_asked_for(bank, monkeypatch):
    features, _ = bank.samples(np.arange(60))
    whole = normalized_probe(PORT, features, "image_vector")
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-6)
    asked = []

    def counting(port, features, told):
        asked.append(len(jax.tree.leaves(features)[0]))
        return normalized_probe(port, features, told)

    monkeypatch.setattr(image_kernel, "unit_vectors", counting)
    images = ReferenceImages(PORT, bank)
    rows = np.random.default_rng(3).integers(0, 40, (10, 4))
    np.testing.assert_array_equal(images(rows), whole[rows])
    assert asked == [16] * -(-len(np.unique(rows)) // 16)
    images(rows[::-1])
    np.testing.assert_array_equal(images(np.array([[59, 3]])), whole[[[59, 3]]])
    assert len(asked) == -(-len(np.unique(rows)) // 16) + 1  # nothing twice


@pytest.mark.parametrize("name", READERS)
def test_a_wide_kernel_asks_for_questions_alone_and_a_narrower_one_does_not(bank, questions, name):
    wide = dataclasses.replace(QUESTIONS, atlas_image_bandwidth=1e6)
    found = answers(bank, questions, alone=made(name, QUESTIONS), wide=made(name, wide), narrow=made(name, IMAGES))
    for key, values in found["wide"].items():
        np.testing.assert_array_equal(values, found["alone"][key])
    assert np.abs(found["narrow"]["kernel_weights"] - found["alone"]["kernel_weights"]).max() > 0.1
    assert np.abs(found["narrow"]["weights"] - found["alone"]["weights"]).max() > 1e-3


@pytest.mark.parametrize("bandwidth", [1e-4, 0.5])
def test_a_single_neighbour_stays_what_it_is(bank, questions, bandwidth):
    one = dataclasses.replace(QUESTIONS, atlas_k=1)
    pictured = dataclasses.replace(one, atlas_image_bandwidth=bandwidth)
    found = answers(bank, questions, alone=strategy("atlas", one), pictured=strategy("atlas", pictured))
    for key, values in found["pictured"].items():
        np.testing.assert_array_equal(values, found["alone"][key])
    assert not found["pictured"]["used_fallback"].any()


def test_weights_are_the_product_of_both_kernels_and_neighbours_those_of_the_question(bank, questions):
    methods = {"alone": strategy("atlas", QUESTIONS), "pictured": strategy("atlas", IMAGES)}
    lookup = prepare(PORT, bank, questions, methods, METRIC).lookup
    near = lookup.neighbors("pictured", ROWS)
    np.testing.assert_array_equal(near, lookup.neighbors("alone", ROWS))
    seen = normalized_probe(PORT, questions.queries.features, "image_vector")
    known = normalized_probe(PORT, bank.samples(np.arange(60))[0], "image_vector")
    by_question = np.asarray(lookup.references("alone", ROWS).weights, np.float64)
    distance = np.linalg.norm(known[near] - seen[:, None], axis=-1)
    product = by_question * np.exp(-np.square(distance / (0.5 * np.median(distance, axis=1, keepdims=True))) / 2)
    found = np.asarray(lookup.references("pictured", ROWS).weights)
    expected = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found / found.sum(axis=1, keepdims=True), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["atlas", "atlas_descent", "atlas_top8"])
def test_batch_company_and_order_change_nothing(bank, questions, name):
    whole = answers(bank, questions, **{name: made(name, IMAGES)})[name]
    for rows in (np.array([3]), np.array([7, 2, 5, 0, 8, 1, 3, 6, 4])):
        for key, values in answers(bank, questions, rows, **{name: made(name, IMAGES)})[name].items():
            np.testing.assert_array_equal(values, whole[key][rows])
    rows = np.array([4, 2])  # a batch of its own, as `r2t2 eval` asks
    setup = set_up(PORT, bank, {name: made(name, IMAGES)}, METRIC)
    samples = [questions.samples[i] for i in rows]
    alone = setup.on(PORT).asked(encode_questions(PORT, samples), rows).answer(name, np.arange(2))
    np.testing.assert_array_equal(alone["weights"], whole["weights"][rows])


def test_another_bandwidth_compiles_nothing(bank, questions):
    first = answers(bank, questions, atlas=strategy("atlas", IMAGES))["atlas"]
    programs = _reroute_samples._cache_size(), weigh_by_image._cache_size()
    wider = dataclasses.replace(IMAGES, atlas_image_bandwidth=0.9)
    second = answers(bank, questions, atlas=strategy("atlas", wider))["atlas"]
    assert (_reroute_samples._cache_size(), weigh_by_image._cache_size()) == programs
    assert np.abs(first["weights"] - second["weights"]).max() > 1e-4


def test_tuning_tries_bandwidths_beside_none(bank, questions):
    values = {"atlas_k": (2, 6), "atlas_image_bandwidth": (None, 0.5, 2.0)}
    presets = grid_presets(QUESTIONS, values, "atlas")
    bench = tuning_bench(PORT, bank, questions, presets, METRIC, method="atlas")
    for number, preset in enumerate(presets):
        found = bench.answer(str(number), ROWS)
        expected = answers(bank, questions, atlas=strategy("atlas", preset))["atlas"]
        np.testing.assert_array_equal(found["weights"], expected["weights"])


def test_one_question_is_answered_as_in_a_test_set(bank, questions, tmp_path):
    path = tmp_path / "preset.json"
    path.write_text('{"settings": {"atlas_k": 6, "atlas_trust": 0.0, "bandwidth": 0.8, "atlas_image_bandwidth": 0.5}}')
    sample = questions.samples[4]
    found = answer(PORT, sample.image, sample.question, strategy="atlas", preset=str(path), bank=bank)
    expected = answers(bank, questions, atlas=strategy("atlas", IMAGES))["atlas"]
    np.testing.assert_array_equal(found.weights, expected["weights"][4])


@dataclasses.dataclass(frozen=True)
class Blind(ToyModel):
    image_vector = property()  # raises AttributeError: as if there were none


def test_a_model_that_does_not_tell_is_refused_before_anything_is_computed(bank, questions):
    blind = dataclasses.replace(PORT, model=Blind())
    assert not hasattr(blind.model, "image_vector")
    for name in READERS:
        with pytest.raises(R2T2Error, match=r"toy does not tell what an image looks like .*atlas_image_bandwidth"):
            prepare(blind, bank, questions, {name: made(name, IMAGES)}, METRIC)
    prepare(blind, bank, questions, {"atlas": strategy("atlas", QUESTIONS), "ngd": strategy("ngd", IMAGES)}, METRIC)


def test_strategies_without_neighbours_of_the_atlas_have_no_such_kernel():
    mine = {name for name in STRATEGIES if (table := strategy(name, IMAGES).table) and table.image_bandwidth == 0.5}
    assert mine == set(READERS) - {"atlas_top8"}
    assert baseline("atlas_top8", IMAGES).table.image_bandwidth == 0.5


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_bandwidths_are_refused(bandwidth):
    with pytest.raises(R2T2Error, match=f"atlas image bandwidth {bandwidth} must be positive"):
        strategy("atlas", Preset(atlas_image_bandwidth=bandwidth))
