"""Every strategy runs on MoVA, through the same contract as on the pocket model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.contract import Query, References
from r2t2_jax.costs.jaxpr import weight_gradients
from r2t2_jax.method.forward import encode_batch
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import reroute_batch, reroute_sample
from r2t2_jax.methods import STRATEGIES, strategy
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import uniform
from tests.ports.mova.tiny import COARSE, CONFIG, drawn_answers, drawn_inputs, tiny

PRESET = Preset.from_mapping(
    {
        "neighborhood.k": 2,
        "descent.steps": 2,
        "mode.k": 2,
        "line_search.evaluations": 4,
        "best_of_n.candidates": 2,
        "generation.max_new_tokens": 3,
    }
)
QUICK = ("kernel_regression", "mode_finding", "ngd")
# What else a strategy reads (an atlas, a fine-tuned gate) is made from banks; those have tests of their own.
OFFERED = ("base", "router_mean", "uniform", "task_routing", "kernel_regression_alpha", "best_of_n", "oracle", *QUICK)


@pytest.fixture(scope="module")
def problem():
    """Queries and references from the same three samples; neighbors carry all experts."""
    model, params = tiny()
    features, routing = encode_batch(params, drawn_inputs(), model=model)
    answers = drawn_answers()
    support = jnp.asarray(model.support(features))
    task = jax.vmap(lambda mask: uniform(model.spec, mask))(support)
    query = Query(features, routing, support, answers, task)
    pairs = np.array([[1, 2], [0, 2], [0, 1]])
    near = jax.tree.map(lambda leaf: jnp.asarray(leaf)[pairs], (features, answers, routing))
    return model, params, query, References(routing, *near, jnp.ones((3, 2)))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in OFFERED],
)
def test_runs_and_stays_on_the_support(problem, name):
    model, params, query, references = problem
    assert name in STRATEGIES
    keys = sample_keys(0, np.arange(3))
    result = reroute_batch(strategy(name, PRESET), model, params, query, references, keys)
    assert result.weights.shape == (3, 3, 7)
    assert np.isfinite(result.weights).all()
    assert np.isfinite(result.losses).all()
    outside = ~np.repeat(COARSE[:, None], 3, axis=1)
    assert (np.asarray(result.weights)[outside] == 0).all()
    if name == "ngd":
        assert (np.abs(result.path[0, -1] - result.path[0, 0]) > 0).any()
        assert (result.path[1] == 0).all()  # no expert was chosen, so no weight can move


def test_no_weight_is_differentiated(problem):
    model, params, query, references = problem
    sample = jax.tree.map(lambda leaf: leaf[0], (query, References(None, *vars_of(references))))
    args = (params, *sample, jax.random.key(0))
    ngd = strategy("ngd", PRESET)
    traced = jax.make_jaxpr(lambda p, *args: reroute_sample(ngd, model, p, *args))(*args)
    shared = weight_gradients(traced, {"gate": jnp.zeros((CONFIG.decoder.width, CONFIG.decoder.hidden))})
    assert shared == []


def vars_of(references):
    return references.features, references.answers, references.routing, references.weights


@pytest.mark.slow  # everything is compiled twice more
def test_vmapped_samples_equal_samples_one_by_one(problem):
    model, params, query, references = problem
    features, routing = encode_batch(params, drawn_inputs(), model=model, vmap_size=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), features, query.features)
    np.testing.assert_allclose(routing, query.routing, atol=1e-5)

    arguments = strategy("ngd", PRESET), model, params, query, references, sample_keys(0, np.arange(3))
    single, batched = reroute_batch(*arguments), reroute_batch(*arguments, vmap_size=2)
    np.testing.assert_allclose(batched.weights, single.weights, atol=1e-5)
