"""Strategies over batches: independence of the batch, counted evaluations, one compilation per shape."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.contract import LossModel, References
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import _reroute_on_cpu, _reroute_samples, reroute_batch
from r2t2_jax.methods import STRATEGIES, strategy
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import RoutingSpec
from tests.toy import (
    MODEL,
    SMALL,
    A,
    E,
    L,
    ToyModel,
    references_for,
    run,
    toy_bank,
    toy_params,
    toy_queries,
    with_atlas,
)

PRESETS = {
    "free sgd": SMALL.with_settings({"descent.steps": 4}),
    "simplex adam": SMALL.with_settings(
        {"descent.steps": 4, "space.kind": "simplex", "descent.optimizer": "adam", "descent.learning_rate": 0.1}
    ),
    "shift": SMALL.with_settings({"descent.steps": 3, "space.kind": "shift", "descent.learning_rate": 0.5}),
}
SGD, ADAM, SHIFT = PRESETS.values()
CASES = {
    "ngd free sgd": strategy("ngd", SGD),
    "ngd simplex adam": strategy("ngd", ADAM),
    "random_neighbors": strategy("random_neighbors", SGD),
    "kernel_regression_alpha": strategy("kernel_regression_alpha", SGD),
    "mode_finding": strategy("mode_finding", SGD),
    "best_of_n": strategy("best_of_n", SGD),
    "atlas": strategy("atlas", SGD),
    "sar": strategy("sar", SGD),
    "cma_es": strategy("cma_es", SGD),
    "memo": strategy("memo", SGD),
}
OTHERS = [name for name in STRATEGIES if not any(case.startswith(name) for case in CASES)]
BY_NAME = [pytest.param(strategy(name, SGD), id=name, marks=pytest.mark.slow) for name in OTHERS]


def arrays(rerouted):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(rerouted)]


@pytest.mark.parametrize("case", [*(pytest.param(case, id=name) for name, case in CASES.items()), *BY_NAME])
def test_a_sample_gets_the_same_in_any_batch_order_and_size(case):
    whole = arrays(run(case))
    for rows in ([3], [4, 0, 2, 1, 3]):  # a loop of one round is compiled differently
        for part, every in zip(arrays(run(case, rows)), whole, strict=True):
            np.testing.assert_array_equal(part, every[np.array(rows)])


@pytest.mark.parametrize(("case", "tolerance"), [(CASES["ngd free sgd"], 1e-5), (CASES["ngd simplex adam"], 1e-4)])
def test_another_device_count_changes_results_by_rounding_only(case, tolerance):
    single = run(case)
    shared = run(case, mesh=jax.make_mesh((4,), ("data",)))  # five samples: padded to eight
    for a, b in zip(arrays(shared), arrays(single), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("case", "tolerance"), [(CASES["ngd free sgd"], 1e-5), (CASES["ngd simplex adam"], 1e-4)])
def test_vmapped_samples_equal_mapped_ones(case, tolerance):
    single = run(case)
    for vmap_size in (2, 5):  # five samples: padded to six, and all at once
        for a, b in zip(arrays(run(case, vmap_size=vmap_size)), arrays(single), strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)


COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective", "reduce-scatter")


def program(case, mesh=None, count=4):
    """Arguments of the jitted entry point for the toy model."""
    queries, embeddings = toy_queries(count)
    references = references_for(case, with_atlas(toy_bank()), embeddings)
    shared = {"bank_routing": references.bank_routing, "points": references.points}
    samples = (queries, dataclasses.replace(references, **dict.fromkeys(shared)), sample_keys(0, np.arange(count)))
    return (case, toy_params(), shared, samples), {"model": MODEL, "mesh": mesh, "vmap_size": 1}


def test_no_device_waits_for_another():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    args, static = program(CASES["ngd free sgd"], mesh)
    text = _reroute_samples.lower(*args, **static).compile().as_text()
    assert "num_partitions=4" in text
    assert not [name for name in COLLECTIVES if name in text]

    split = jax.sharding.PartitionSpec("data")
    summed = jax.shard_map(lambda x: jax.lax.psum(x, "data"), mesh=mesh, in_specs=split, out_specs=split)
    assert "all-reduce" in jax.jit(summed).lower(jnp.ones(4)).compile().as_text()  # this is how it would look


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_program_exports_to_every_platform(name):
    args, static = program(strategy(name, SGD), count=2)
    exported = jax.export.export(_reroute_samples, platforms=("tpu", "cuda", "cpu"))(*args, **static)
    assert exported.platforms == ("tpu", "cuda", "cpu")


def test_ngd_with_the_query_as_its_only_neighbor_is_the_oracle():
    queries, _ = toy_queries()
    own = jax.tree.map(lambda leaf: leaf[:, None], (queries.features, queries.answer, queries.routing))
    references = References(queries.routing, *own, weights=jnp.full((5, 1), 0.3))
    keys = sample_keys(0, np.arange(5))
    ngd = reroute_batch(strategy("ngd", ADAM), MODEL, toy_params(), queries, references, keys)
    oracle = reroute_batch(strategy("oracle", ADAM), MODEL, toy_params(), queries, None, keys)
    np.testing.assert_allclose(ngd.path, oracle.path, atol=1e-6)
    np.testing.assert_allclose(ngd.losses, oracle.losses, atol=1e-5)
    assert jnp.abs(oracle.path[:, -1] - oracle.path[:, 0]).max() > 0.05


def test_kernel_regression_is_the_kernel_mean():
    queries, embeddings = toy_queries()
    case = strategy("kernel_regression")
    references = references_for(case, toy_bank(), embeddings)
    expected = np.einsum("bk,bkle->ble", references.weights, references.routing)
    expected /= np.asarray(references.weights).sum(axis=1)[:, None, None]
    result = reroute_batch(case, MODEL, toy_params(), queries, references, sample_keys(0, np.arange(5)))
    np.testing.assert_allclose(result.weights, expected, rtol=1e-5)


def test_descent_lowers_the_loss():
    preset = SGD.with_settings({"descent.learning_rate": 0.05, "descent.final_learning_rate": 0.05})
    losses = run(strategy("ngd", preset)).losses
    assert losses.shape == (5, 4)
    assert (losses[:, -1] < losses[:, 0]).all()


def test_a_shift_of_zero_is_the_base_model():
    still = SHIFT.with_settings({"descent.learning_rate": 0.0, "descent.final_learning_rate": 0.0})
    result, base = run(strategy("ngd", still)), run(strategy("base"))
    assert base.routing is None
    np.testing.assert_array_equal(result.routing.values, 0)
    np.testing.assert_allclose(result.weights, base.weights, atol=1e-6)
    queries, _ = toy_queries()

    def answers(routing):
        def one(features, answer, routing):
            candidates = jax.tree.map(lambda leaf: leaf[None], answer)
            return (
                MODEL.generate(toy_params(), features, routing, A),
                MODEL.answer_logprobs(toy_params(), features, routing, candidates),
            )

        return jax.jit(jax.vmap(one))(queries.features, queries.answer, routing)

    np.testing.assert_array_equal(answers(result.routing)[0], answers(None)[0])
    np.testing.assert_allclose(answers(result.routing)[1], answers(None)[1], atol=1e-5)


def test_a_shift_reports_the_weights_in_effect():
    result = run(strategy("ngd", SHIFT))
    queries, _ = toy_queries()
    routed = jax.jit(jax.vmap(MODEL.route, in_axes=(None, 0, 0)))(toy_params(), queries.features, result.routing)
    np.testing.assert_allclose(result.weights, routed, atol=1e-6)
    np.testing.assert_allclose(result.path[:, 0], queries.routing, atol=1e-6)
    assert result.routing.mode == "shift"
    assert jnp.abs(result.path[:, -1] - result.path[:, 0]).max() > 1e-3


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_without_neighbors_the_routers_weights_are_kept(preset):
    isolated = preset.with_settings({"neighborhood.epsilon": 0.0})
    result = run(strategy("ngd", isolated))
    queries, _ = toy_queries()
    assert result.used_fallback.all()
    np.testing.assert_array_equal(result.weights, queries.routing)
    np.testing.assert_array_equal(result.routing.values, 0 if preset.space.kind == "shift" else queries.routing)
    assert not run(strategy("ngd", preset)).used_fallback.any()


def test_paths_start_at_the_router_and_end_at_the_result():
    queries, _ = toy_queries()
    for name in ("router_mean", "mode_finding", "kernel_regression", "kernel_regression_alpha", "ngd", "best_of_n"):
        result = run(strategy(name, SGD))
        np.testing.assert_allclose(result.path[:, 0], queries.routing, atol=1e-6)
        np.testing.assert_array_equal(result.path[:, -1], result.weights)
        np.testing.assert_array_equal(result.routing.values, result.weights)


def test_constant_routings():
    queries, _ = toy_queries()
    np.testing.assert_allclose(run(strategy("uniform")).weights, 1 / E, rtol=1e-6)
    np.testing.assert_allclose(run(strategy("router_mean")).weights, queries.routing, rtol=1e-6)
    np.testing.assert_allclose(run(strategy("task_routing")).weights, queries.task_routing, rtol=1e-6)


def test_best_of_n_depends_on_the_key_and_never_trusts_a_less_confident_routing():
    result = run(strategy("best_of_n", SGD))
    assert (result.losses[:, -1] <= result.losses[:, 0]).all()
    assert (result.losses[:, -1] < result.losses[:, 0]).any()


@pytest.mark.parametrize(
    ("name", "evaluations"),
    {  # K = 5, S = 4, n = 6 points on the line, n = 4 candidates
        "base": 1,
        "uniform": 1,
        "task_routing": 1,
        "router_mean": 2,
        "kernel_regression": 2,
        "mode_finding": 2,
        "ngd": 1 + 2 * 4 * 5 + 1,
        "random_neighbors": 1 + 2 * 4 * 5 + 1,
        "shuffled_references": 1 + 2 * 4 * 5 + 1,
        "kernel_regression_alpha": 1 + 6 * 5 + 1,
        "oracle": 1 + 2 * 4 + 1,
        "oracle_permuted": 1 + 2 * 4 + 1,
        "base_permuted": 1,
        "best_of_n": 1 + 4 * 2 + 1,
        "atlas": 2,
        "atlas_argmin": 2,
        "atlas_taylor": 2,
        "best_fixed": 1,
        "tent": 1 + 1 + 2 * 4 + 1,
        "eata": 1 + 2 + 2 * 4 + 1,
        "sar": 1 + 1 + 4 * 4 + 1,
        "memo": 1 + 1 + 2 * 4 * 3 + 1,  # three views
        "tpt": 1 + 1 + 3 + 2 * 4 * 2 + 1,  # two of them kept
        "deyo": 1 + 3 + 2 * 4 + 1,
        "rewiring": 1 + 1 + 2 * 5 + 6 + 1,  # five steps, six points of a shift's path
        "cma_es": 1 + 2 * (1 + 2 * 10) + 1,  # two generations of ten candidates
        "active_experts": 1 + 2 * 4 + 1,
        "t3": 1 + 2 + 1 + 1,
        "manifold_pull": 1 + 2 * 4 * 3 + 1,
        "knn_moe": 2,
    }.items(),
)
def test_evaluations(name, evaluations):
    assert run(strategy(name, SGD)).evaluations == evaluations


def test_evaluations_of_a_shift_count_the_gate():
    assert run(strategy("ngd", SHIFT)).evaluations == 1 + 2 * 3 * 5 + 4 + 1
    assert run(strategy("eata", SHIFT)).evaluations == 1 + 2 + 2 * 3 * 2 + 4 + 1  # its pull reads it at every value


def test_numbers_are_traced_and_shapes_compile_once():
    model = ToyModel(RoutingSpec(("p", "q", "r", "s"), L))  # known to no other test

    def result(bandwidth, learning_rate, count=5):
        preset = Preset.from_mapping(
            {"descent.steps": 3, "neighborhood.bandwidth": bandwidth, "descent.learning_rate": learning_rate}
        )
        return run(strategy("ngd", preset), model=model, count=count).weights

    first = result(0.5, 0.01)
    programs, traces = _reroute_on_cpu._cache_size(), ToyModel.traces
    others = [result(0.5, 0.3), result(5.0, 0.3)]
    assert (_reroute_on_cpu._cache_size(), ToyModel.traces) == (programs, traces)
    for a, b in itertools.combinations((first, *others), 2):  # the new numbers were used
        assert jnp.abs(a - b).max() > 1e-4
    result(0.5, 0.01, count=4)
    assert _reroute_on_cpu._cache_size() == programs + 1


@pytest.mark.parametrize(("name", "preset"), [("ngd", SHIFT), ("kernel_regression", ADAM)])
def test_only_the_last_layers_move(name, preset):
    last = run(strategy(name, preset.with_settings({"space.last_layers": 1})))
    queries, _ = toy_queries()
    np.testing.assert_allclose(
        last.path[:, :, 0], np.broadcast_to(queries.routing[:, None, 0], last.path[:, :, 0].shape), rtol=5e-6
    )
    assert jnp.abs(last.weights[:, 1] - queries.routing[:, 1]).max() > 1e-3


@pytest.mark.parametrize("name", ["ngd", "kernel_regression"])
def test_only_the_core_experts_have_weight(name):
    queries, _ = toy_queries()
    result = run(strategy(name, ADAM.with_settings({"space.core_experts": 2})))
    largest = np.argsort(-np.asarray(queries.routing), axis=-1)[..., :2]
    core = np.zeros((5, L, E), bool)
    np.put_along_axis(core, largest, True, axis=-1)
    assert not np.asarray(result.weights)[~core].any()
    np.testing.assert_allclose(result.weights.sum(axis=-1), 1, atol=1e-5)


def test_layers_that_do_not_move_keep_all_experts():
    queries, _ = toy_queries()
    result = run(strategy("ngd", ADAM.with_settings({"space.core_experts": 1, "space.last_layers": 1})))
    np.testing.assert_allclose(result.weights[:, 0], queries.routing[:, 0], rtol=5e-6)
    np.testing.assert_array_equal((result.weights[:, 1] > 0).sum(axis=-1), 1)


def test_bad_masks_are_refused():
    for settings, cause in (
        ({"space.last_layers": 0}, "space.last_layers 0"),
        ({"space.core_experts": -1}, "space.core_experts -1"),
        ({"space.last_layers": 1, "space.tied": True}, "moves all layers together"),
    ):
        with pytest.raises(R2T2Error, match=cause):
            Preset.from_mapping(settings)


def loss_only(params, features, weights, answer):
    return jnp.square(weights).sum()


@pytest.mark.parametrize(
    ("name", "preset", "model", "changes", "cause"),
    [
        ("oracle", SGD, MODEL, {"answer": None}, "reads the test samples' answers"),
        ("task_routing", SGD, MODEL, {"task_routing": None}, "task routing"),
        ("ngd", SHIFT, LossModel(loss_only, MODEL.spec), {}, "needs a model with a gate"),
        ("best_of_n", SGD, LossModel(loss_only, MODEL.spec), {}, "needs a model that generates"),
        ("tent", SGD, LossModel(loss_only, MODEL.spec), {}, "token_logprobs"),
        ("mode_finding", Preset.from_mapping({"mode.k": 13}), MODEL, {}, "k=13 references of 12"),
        ("memo", SGD, MODEL, {"views": None}, "augmented images"),
        ("deyo", SGD, MODEL, {"shuffled": None}, "augmented images"),
    ],
)
def test_unmet_needs_are_refused(name, preset, model, changes, cause):
    queries, embeddings = toy_queries()
    case = strategy(name, preset)
    references = references_for(case, toy_bank(), embeddings)
    with pytest.raises(R2T2Error, match=cause):
        reroute_batch(
            case, model, toy_params(), dataclasses.replace(queries, **changes), references, sample_keys(0, np.arange(5))
        )


def test_missing_references_are_refused():
    queries, _ = toy_queries()
    for name, cause in (("ngd", "needs the neighbors"), ("mode_finding", "needs the bank's routing")):
        with pytest.raises(R2T2Error, match=cause):
            reroute_batch(strategy(name), MODEL, toy_params(), queries, None, sample_keys(0, np.arange(5)))


def test_a_mesh_without_a_data_axis_is_refused():
    with pytest.raises(R2T2Error, match="axes \\('model',\\)"):
        run(strategy("base"), mesh=jax.make_mesh((2,), ("model",), devices=jax.devices()[:2]))
