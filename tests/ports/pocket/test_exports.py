"""Re-routing of the pocket model exports to every platform and computes no weight gradient."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from ports.pocket.config import PocketConfig
from ports.pocket.model import PocketModel
from ports.pocket.modeling import PocketAnswer, create, fake_inputs
from r2t2_jax.contract import Query, References
from r2t2_jax.costs.jaxpr import weight_gradients
from r2t2_jax.method.forward import encode_batch, generate_tokens
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import reroute_sample
from r2t2_jax.methods import strategy
from r2t2_jax.routing import Routing

PLATFORMS = ("tpu", "cuda", "cpu")
# Sizes which no two axes share, so that the shape of a weight gradient is unmistakable.
CONFIG = PocketConfig(
    vocab_size=41,
    channel=7,
    expert_width=9,
    key_width=10,
    width=44,
    hidden=52,
    question_length=11,
    gate_hidden=37,
)
SIZES = {"batch": 2, "neighbors": 3}


@pytest.fixture(scope="module")
def abstract():
    """Model, parameters, features and an answer, all as shapes."""
    graph, params = nnx.split(nnx.eval_shape(lambda: create(CONFIG, nnx.Rngs(0))))
    model = PocketModel(CONFIG, graph)
    inputs = fake_inputs(CONFIG)
    features = jax.eval_shape(model.encode, params, inputs)
    answer = PocketAnswer(jnp.zeros(CONFIG.answer_length, jnp.int32), jnp.ones(CONFIG.answer_length, bool))
    return model, params, inputs, features, answer


def rows(tree, *leading):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*leading, *leaf.shape), leaf.dtype), tree)


def problem(abstract):
    _, _, _, features, answer = abstract
    weights = jax.ShapeDtypeStruct((2, 6), jnp.float32)
    query = Query(features, weights, jax.ShapeDtypeStruct((2, 6), bool), answer, weights)
    k = SIZES["neighbors"]
    kernel = jax.ShapeDtypeStruct((k,), jnp.float32)
    references = References(rows(weights, 60), rows(features, k), rows(answer, k), rows(weights, k), kernel)
    return query, references, jax.eval_shape(lambda: jax.random.key(0))


@pytest.mark.parametrize("space", ["free", "simplex", "logit", "shift"])
def test_descent_holds_no_weight_gradient(abstract, space):
    model, params = abstract[:2]
    ngd = strategy(
        "ngd",
        Preset.from_mapping({"neighborhood.k": SIZES["neighbors"], "space.kind": space, "descent.optimizer": "adam"}),
    )
    traced = jax.make_jaxpr(lambda p, *args: reroute_sample(ngd, model, p, *args))(params, *problem(abstract))
    assert weight_gradients(traced, params) == []


def test_a_weight_gradient_would_be_seen(abstract):
    model, params, _, features, answer = abstract

    def loss(params, features, answer):
        return model.answer_loss(params, features, Routing(jnp.full((2, 6), 1 / 6)), answer)

    assert weight_gradients(jax.make_jaxpr(jax.grad(loss))(params, features, answer), params)


@pytest.mark.parametrize("name", ["ngd", "kernel_regression_alpha", "mode_finding", "best_of_n", "oracle"])
def test_rerouting(abstract, name):
    model, params = abstract[:2]
    chosen = strategy(name, Preset.from_mapping({"neighborhood.k": SIZES["neighbors"], "descent.steps": 2}))
    program = jax.jit(lambda p, *args: reroute_sample(chosen, model, p, *args).weights)
    assert jax.export.export(program, platforms=PLATFORMS)(params, *problem(abstract)).platforms == PLATFORMS


def test_encoding_and_answering(abstract):
    model, params, inputs, features, _ = abstract
    batch = SIZES["batch"]
    export = jax.export.export(encode_batch, platforms=PLATFORMS)
    assert export(params, rows(inputs, batch), model=model).platforms == PLATFORMS
    export = jax.export.export(generate_tokens, platforms=PLATFORMS)
    routing = Routing(jax.ShapeDtypeStruct((batch, 2, 6), jnp.float32))
    exported = export(params, rows(features, batch), routing, model=model, max_new_tokens=3)
    assert exported.platforms == PLATFORMS
