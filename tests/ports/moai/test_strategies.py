"""Re-routing end to end on the tiny MoAI: every strategy through the contract, replaced and shifted, tied and not.

Axis letters: B test samples, K neighbors, N bank size, L mixers, E experts.
"""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ports.common.checkpoint.mapping import named
from ports.moai.config import MoAIConfig
from ports.moai.modeling import abstract, fake_inputs
from r2t2_jax.contract import Query, References
from r2t2_jax.costs.jaxpr import weight_gradients
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.methods import STRATEGIES, strategy
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit
from tests.ports.moai.goldens import stacked
from tests.ports.moai.tiny import answer_of, draw_inputs, tiny

CONFIG = dataclasses.replace(MoAIConfig.tiny(), layers=4, vision_layers=1, compressor_depth=1, remat="none")
PRESET = Preset.from_mapping(
    {
        "neighborhood.k": 2,
        "descent.steps": 2,
        "mode.k": 2,
        "mode.max_iterations": 3,
        "line_search.evaluations": 4,
        "best_of_n.candidates": 2,
        "generation.max_new_tokens": 2,
        "rewiring.steps": 2,
        "cma_es.generations": 1,
        "augmentation.views": 2,
        "tpt.selected_views": 1,
    }
)
BATCH, BANK = 2, 4


@cache
def problem():
    """Queries, references and a bank of random samples, two neighbors each."""
    model, params = tiny(CONFIG)

    @quick_jit
    def encode(inputs):
        def per_sample(inputs):
            features = model.encode(params, inputs)
            return features, model.route(params, features)

        return jax.lax.map(per_sample, inputs)

    features, routing = encode(stacked([draw_inputs(seed, config=CONFIG) for seed in range(BATCH + BANK)]))
    answers = stacked([answer_of(*pair) for pair in ((7, 95), (8, 95), (9, 5, 95), (7, 95), (8, 4, 95), (3, 95))])

    def rows(tree, indices):
        return jax.tree.map(lambda leaf: leaf[np.array(indices)], tree)

    test_rows, neighbors = list(range(BATCH)), [[2, 3], [4, 5]]
    support = jnp.ones((BATCH, *model.spec.shape), bool)
    third = jnp.full(support.shape, 1 / 3)
    pairs, others = rows(features, [[0, 1], [1, 0]]), rows(features, [1, 0])
    labels = rows(answers, test_rows)
    queries = Query(features, routing, support, labels, third, third, pairs, others, rows(answers, test_rows[::-1]))
    queries = dataclasses.replace(queries, features=rows(features, test_rows), routing=routing[:BATCH])
    references = References(
        routing[BATCH:],
        rows(features, neighbors),
        rows(answers, neighbors),
        rows(routing, neighbors),
        jnp.ones((BATCH, 2)),
        points=routing[BATCH:],
        point_losses=jnp.tile(jnp.array([0.4, 0.1, 0.3, 0.2]), (BATCH, 2, 1)),
        slopes=jnp.full((BATCH, 2, *model.spec.shape), 0.1),
    )
    return model, params, queries, references


def run(name, settings=None, vmap_size=1):
    model, params, queries, references = problem()
    chosen = strategy(name, PRESET.with_settings(settings or {}))
    keys = sample_keys(0, np.arange(BATCH))
    return reroute_batch(chosen, model, params, queries, references, keys, vmap_size=vmap_size)


def loss_at(model, params, queries, references, row):
    """The neighborhood loss of one query, written out."""
    features, answers = (
        jax.tree.map(lambda leaf: leaf[row], part) for part in (references.features, references.answers)
    )

    def loss(routing):
        each = [
            model.answer_loss(params, *(jax.tree.map(lambda leaf, k=k: leaf[k], part) for part in (features,)), routing,
                              jax.tree.map(lambda leaf, k=k: leaf[k], answers))
            for k in range(2)
        ]  # fmt: skip
        return sum(each) / 2

    return loss


@pytest.mark.slow  # the golden tests compare recorded gradients
def test_the_first_step_is_the_gradient_times_the_step_size():
    model, params, queries, references = problem()
    result = run("ngd", {"space.kind": "free", "descent.learning_rate": 0.1, "descent.schedule": "fixed"})
    loss = loss_at(model, params, queries, references, 0)
    value, gradient = quick_jit(jax.value_and_grad(lambda r: loss(Routing(r))))(queries.routing[0])
    np.testing.assert_allclose(result.losses[0, 0], value, atol=1e-5)
    np.testing.assert_allclose(result.path[0, 1], queries.routing[0] - 0.1 * gradient, atol=1e-5)


@pytest.mark.slow  # compiled twice
def test_vmapped_samples_equal_samples_one_by_one():
    single, batched = run("ngd"), run("ngd", vmap_size=2)
    np.testing.assert_allclose(batched.weights, single.weights, atol=1e-5)
    np.testing.assert_allclose(batched.losses, single.losses, atol=1e-5)


@pytest.mark.slow  # two programs
def test_a_tied_shift_is_equal_in_all_mixers_and_starts_at_the_base_model():
    model, params, queries, references = problem()
    result = run("ngd", {"space.kind": "shift", "space.tied": True, "descent.learning_rate": 0.5})
    np.testing.assert_array_equal(result.routing.values[:, 0], result.routing.values[:, 1])
    assert result.routing.mode == "shift" and float(jnp.abs(result.routing.values).max()) > 0
    np.testing.assert_allclose(result.path[:, 0], queries.routing, atol=1e-5)
    loss = loss_at(model, params, queries, references, 0)
    np.testing.assert_allclose(result.losses[0, 0], quick_jit(lambda: loss(None))(), atol=1e-5)


@pytest.mark.parametrize(
    ("space", "tied"), [pytest.param("shift", False, marks=pytest.mark.slow), pytest.param("logit", True)]
)
def test_descent_lowers_the_oracle_loss(space, tied):
    descent = {"descent.optimizer": "adam", "descent.learning_rate": 0.05, "descent.steps": 4}
    result = run("oracle", {"space.kind": space, "space.tied": tied, **descent})
    assert (result.losses[:, -1] < result.losses[:, 0]).all()


QUICK = ("base", "router_mean", "kernel_regression", "mode_finding", "atlas")
OTHERS = sorted(set(STRATEGIES) - {"ngd", "oracle", "random_neighbors", "shuffled_references"})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in OTHERS]
)
def test_every_other_strategy_runs(name):
    model, _, queries, references = problem()
    result = run(name)
    assert result.weights.shape == (BATCH, *model.spec.shape) and bool(jnp.isfinite(result.weights).all())
    expected = {
        "base": queries.routing,
        "router_mean": queries.routing,
        "uniform": jnp.full_like(queries.routing, 1 / 3),
        "task_routing": queries.task_routing,
        "kernel_regression": references.routing.mean(axis=1),
        "best_fixed": jnp.broadcast_to(references.points[1], queries.routing.shape),
        "gate_finetuned": queries.finetuned_routing,
    }
    if name in expected:
        np.testing.assert_allclose(result.weights, expected[name], atol=1e-6)
    assert (result.routing is None) == (name in ("base", "base_permuted"))


def test_no_weight_is_differentiated():
    """All axes have different sizes, so that the shape of a weight's gradient identifies it."""
    config = dataclasses.replace(
        MoAIConfig.tiny(),
        width=44,
        hidden=52,
        heads=2,
        kv_heads=1,
        vocab_size=91,
        image_id=91,
        end_id=90,
        expert_heads=2,
        plora_rank=5,
        compressor_latents=9,
    )
    graph, params = abstract(config)
    model = type(problem()[0])(config, graph)
    features = jax.eval_shape(model.encode, params, fake_inputs(config, 13, 7))
    answer = answer_of(7, 8, 90, length=8)

    def gradient(params, features, values):
        return jax.grad(lambda r: model.answer_loss(params, features, Routing(r), answer))(values)

    values = jax.ShapeDtypeStruct(model.spec.shape, jnp.float32)
    kernels = [leaf for name, leaf in named(params).items() if name.endswith("kernel")]
    assert not weight_gradients(jax.make_jaxpr(gradient)(params, features, values), kernels)
