"""Re-routing a loss function: better routing, and every invalid array refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2t2_jax
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy
from tests.toy import MODEL, toy_bank, toy_params, toy_queries

RNG = np.random.default_rng(0)
N, B, E, D = 60, 10, 3, 4


def answer_loss(params, features, weights, answer):
    """Squared error of a mixture of three linear experts [E, D]; weights [1, E]."""
    outputs = params @ features  # [E]
    return jnp.square(weights[0] @ outputs - answer)


def samples(count):
    """Each sample's topic names the expert that is right about it; the router knows nothing."""
    topic = RNG.integers(0, E, count)
    features = RNG.normal(size=(count, D)).astype(np.float32)
    answers = (features @ PARAMS.T)[np.arange(count), topic]
    embeddings = np.eye(E, 6)[topic] + 0.05 * RNG.normal(size=(count, 6))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return topic, features, answers, np.full((count, 1, E), 1 / E, np.float32), embeddings.astype(np.float32)


PARAMS = RNG.normal(size=(E, D)).astype(np.float32)
_, *arrays = samples(N)
BANK = ReferenceBank(*arrays)
TOPIC, FEATURES, ANSWERS, ROUTING, EMBEDDINGS = samples(B)
FAST = strategy(
    "ngd", Preset.from_mapping({"space.kind": "simplex", "descent.learning_rate": 0.3, "descent.steps": 20})
)


def errors(weights):
    return np.asarray(jax.jit(jax.vmap(answer_loss, in_axes=(None, 0, 0, 0)))(PARAMS, FEATURES, weights, ANSWERS))


def test_an_l2_loss_and_arrays_are_enough():
    result = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, strategy=FAST)
    assert result.weights.shape == (B, 1, E)
    assert errors(result.weights).mean() < 0.3 * errors(ROUTING).mean()
    np.testing.assert_array_equal(result.weights[:, 0].argmax(axis=1), TOPIC)


def test_the_default_is_the_papers_ngd():
    result = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS)
    named = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, strategy=strategy("ngd"))
    np.testing.assert_array_equal(result.path, named.path)
    assert result.evaluations == 102


def test_a_routed_model_is_accepted():
    queries, embeddings = toy_queries()
    result = r2t2_jax.reroute(
        MODEL, toy_params(), toy_bank(), queries.features, queries.routing, embeddings, strategy="kernel_regression"
    )
    np.testing.assert_allclose(result.weights.sum(axis=-1), 1, atol=1e-5)


def test_the_support_is_kept():
    support = np.array([True, True, False])[None, None]
    routing = np.where(support, ROUTING, 0)
    result = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, routing, EMBEDDINGS, strategy=FAST, support=support)
    assert not result.weights[..., 2].any()


def broken(array, row=3):
    array = np.array(array)
    array[row] = np.nan
    return array


def shaped_loss(params, features, weights, answer):
    return weights[0]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"features": broken(FEATURES)}, "features holds NaN or infinity, first in row 3"),
        ({"embeddings": broken(EMBEDDINGS)}, "query embeddings holds NaN"),
        ({"embeddings": 3 * EMBEDDINGS}, "unit vectors"),
        ({"embeddings": EMBEDDINGS[:4]}, "leading axis must count the 10 samples"),
        ({"routing": broken(ROUTING)}, "routing holds NaN"),
        ({"routing": ROUTING[..., :2]}, r"needs \[rows, 1 layers, 3 experts\]"),
        ({"routing": np.ones((B, 1, E), int)}, "convert routing weights to float32"),
        ({"support": np.array([True, True, False])[None, None]}, "gives weight to 'expert 2' in layer 0 of row 0"),
        ({"support": np.ones((B, 2), bool)}, r"support of shape \(10, 2\) does not fit routing"),
        ({"features": FEATURES[:7]}, "leading axis must count the 10 samples"),
        ({"strategy": "oracle"}, "reads the test samples' answers"),
        ({"strategy": "telepathy"}, "unknown strategy"),
        (
            {"strategy": strategy("ngd", Preset.from_mapping({"neighborhood.k": 61}))},
            "k=61 neighbors from a bank of 60",
        ),
        ({"model": shaped_loss}, "must return one number"),
    ],
)
def test_bad_input_is_refused(changes, cause):
    arguments = {"model": answer_loss, "params": PARAMS, "bank": BANK, "features": FEATURES, "routing": ROUTING}
    with pytest.raises(R2T2Error, match=cause):
        r2t2_jax.reroute(**{**arguments, "embeddings": EMBEDDINGS, **changes})


@pytest.mark.parametrize("name", ["ngd", "kernel_regression"])
def test_half_precision_embeddings_of_repeated_questions_give_the_weights_of_float32(name):
    dtype = jnp.float16
    kind = np.eye(E, dtype=np.float32)  # three questions, asked again and again
    bank = ReferenceBank(*arrays[:3], kind[np.arange(N) % E])
    half = ReferenceBank(*arrays[:3], jnp.asarray(bank.embeddings, dtype))
    settings = {"space.kind": "simplex", "descent.optimizer": "adam", "descent.learning_rate": 0.3}
    method, queries = strategy(name, Preset.from_mapping(settings)), kind[np.arange(B) % E]
    expected = r2t2_jax.reroute(answer_loss, PARAMS, bank, FEATURES, ROUTING, queries, strategy=method)
    result = r2t2_jax.reroute(
        answer_loss, PARAMS, half, FEATURES, ROUTING, jnp.asarray(queries, dtype), strategy=method
    )
    assert np.isfinite(expected.weights).all()
    np.testing.assert_array_equal(result.weights, expected.weights)


def test_test_samples_that_are_references_are_refused():
    mixed = [np.concatenate([new[:3], old[5:7]]) for new, old in ((FEATURES, arrays[0]), (EMBEDDINGS, arrays[3]))]
    with pytest.raises(R2T2Error, match="2 of 5 test samples are also references in the bank, first row 3"):
        r2t2_jax.reroute(answer_loss, PARAMS, BANK, mixed[0], ROUTING[:5], mixed[1])
    allowed = r2t2_jax.reroute(
        answer_loss, PARAMS, BANK, mixed[0], ROUTING[:5], mixed[1], strategy="kernel_regression", allow_leakage=True
    )
    assert allowed.weights.shape == (5, 1, E)
    other = np.concatenate([EMBEDDINGS[:3], EMBEDDINGS[:2]])  # the same features with another question
    r2t2_jax.reroute(answer_loss, PARAMS, BANK, mixed[0], ROUTING[:5], other, strategy="kernel_regression")
