"""Conditions of rows on the toy port: other references, other starting points, fewer experts and layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import PreparedBatch
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.reproduction.conditions import LastLayers, create_evaluator, restrict_queries
from r2t2_jax.reproduction.measure import share_features
from r2t2_jax.reproduction.spec import Condition
from r2t2_jax.routing import Routing
from tests.toy_port import SPEC, ToyModel, make_samples, toy

METRIC = get_metric("exact_match")
PRESET = Preset.from_mapping(
    {
        "neighborhood.k": 3,
        "space.kind": "simplex",
        "descent.optimizer": "adam",
        "descent.learning_rate": 0.3,
        "descent.steps": 4,
    }
)


@pytest.fixture(scope="module")
def port():
    return toy()


@pytest.fixture(scope="module")
def bank(port):
    return share_features(collect_bank(port, make_samples(60, seed=1, hinted=0.5), METRIC, keep_wrong=True))


@pytest.fixture(scope="module")
def questions(port):
    return encode_questions(port, make_samples(9, seed=2, hinted=0.0))


def prepare(port, bank, questions, condition: Condition) -> PreparedBatch:
    evaluator = create_evaluator(port, bank, {"ngd": strategy("ngd", PRESET)}, condition, METRIC, 0)
    return evaluator.prepare_batch(questions, np.arange(len(questions.samples)))


def neighbors_of(batch: PreparedBatch) -> list[list[dict]]:
    rows = batch.neighbors.indices("ngd", np.arange(len(batch)))
    return [[batch.neighbors.records[j] for j in row] for row in rows.tolist()]


def test_shared_features_give_the_same_answers(port, bank, questions) -> None:
    whole = collect_bank(port, make_samples(60, seed=1, hinted=0.5), METRIC, keep_wrong=True)
    outputs = [prepare(port, each, questions, Condition()).answer("ngd", np.arange(4)) for each in (whole, bank)]
    jax.tree.map(np.testing.assert_array_equal, *outputs)


def test_neighbors_are_correct_and_of_the_same_family_by_default(port, bank, questions) -> None:
    neighborhoods = neighbors_of(prepare(port, bank, questions, Condition()))
    for sample, neighbors in zip(questions.samples, neighborhoods, strict=True):
        assert all(record["correct"] and record["category"] == sample.category for record in neighbors)


def test_neighbors_of_other_families_are_correct(port, bank, questions) -> None:
    neighborhoods = neighbors_of(prepare(port, bank, questions, Condition(other_families=True)))
    for sample, neighbors in zip(questions.samples, neighborhoods, strict=True):
        assert all(record["correct"] and record["category"] != sample.category for record in neighbors)


def test_neighbors_of_the_same_family_are_correct_and_of_all_families_if_it_is_too_small(port, bank, questions) -> None:
    far = dataclasses.replace(questions, embeddings=-questions.embeddings)  # nearest are those of other families
    families = [sample.category for sample in questions.samples]
    for condition, same in ((Condition(), False), (Condition(same_family=True), True)):
        neighborhoods = neighbors_of(prepare(port, bank, far, condition))
        for family, neighbors in zip(families, neighborhoods, strict=True):
            assert all(record["correct"] and (record["category"] == family) == same for record in neighbors)
    few = bank.subsample(6, 0)
    batch = prepare(port, few, far, Condition(same_family=True))
    number = len(batch.neighbors.index.correct)
    assert all(len({record["id"] for record in neighbors}) == 3 for neighbors in neighbors_of(batch)), number
    with pytest.raises(R2T2Error, match="exclude each other"):
        Condition(same_family=True, other_families=True)


def test_incorrectly_answered_references_are_neighbors_with_keep_wrong(port, bank, questions) -> None:
    batch = prepare(port, bank, questions, Condition(keep_wrong=True))
    assert len(batch.neighbors.index.correct) == 60
    assert any(not record["correct"] for neighbors in neighbors_of(batch) for record in neighbors)


def test_a_share_of_the_references_depends_on_its_seed(port, bank, questions) -> None:
    batches = [prepare(port, bank, questions, Condition(share=0.5, draw=draw)) for draw in (0, 0, 1)]
    ids = [[record["id"] for record in batch.neighbors.records] for batch in batches]
    assert len(ids[0]) == 30
    assert ids[0] == ids[1] != ids[2]


def test_another_embedder_embeds_the_references_again(port, bank, questions) -> None:
    batch = prepare(port, bank, questions, Condition(embedder="hashed_words"))
    assert batch.neighbors.index.bank.embeddings.shape == (60, 512)
    assert batch.neighbors.index.bank.embedder_fingerprint.startswith("hashed_words")


def test_a_uniform_start_replaces_the_routers_weights(questions) -> None:
    queries = restrict_queries(SPEC, questions.queries, Condition(start="uniform"))
    np.testing.assert_allclose(queries.routing, np.full((9, 2, 3), 1 / 3), rtol=1e-6)


def test_core_experts_have_the_largest_router_weights(questions) -> None:
    routing = jnp.broadcast_to(jnp.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]), (9, 2, 3))
    queries = dataclasses.replace(questions.queries, routing=routing)
    support = restrict_queries(SPEC, queries, Condition(core_experts=2)).support
    np.testing.assert_array_equal(support[0], [[False, True, True], [True, False, True]])
    np.testing.assert_array_equal(restrict_queries(SPEC, queries, Condition(core_experts=3)).support, queries.support)


def test_only_the_last_layer_is_optimized(port, bank, questions) -> None:
    last = prepare(port, bank, questions, Condition(last_layers=1)).answer("ngd", np.arange(9))
    before = np.asarray(questions.queries.routing)
    np.testing.assert_allclose(last["weights"][:, 0], before[:, 0], atol=1e-6)
    assert np.abs(last["weights"][:, 1] - before[:, 1]).max() > 0.05
    every = prepare(port, bank, questions, Condition()).answer("ngd", np.arange(9))
    assert np.abs(every["weights"][:, 0] - before[:, 0]).max() > 0.05


def test_fixed_layers_have_zero_gradient_and_the_same_loss() -> None:
    features = {"votes": jnp.eye(3, 5), "gate": jnp.zeros(3)}
    params, weights = {"gate": jnp.asarray(4.0), "scale": jnp.asarray(8.0)}, jnp.full((2, 3), 1 / 3)

    def loss(model, weights):
        return model.answer_loss(params, features, Routing(weights), jnp.asarray(1))

    model, last_layer = ToyModel(), LastLayers(ToyModel(), 1)
    assert loss(model, weights) == loss(last_layer, weights)
    gradient, partial = (jax.grad(lambda w, m=each: loss(m, w))(weights) for each in (model, last_layer))
    np.testing.assert_array_equal(partial[0], 0)
    np.testing.assert_array_equal(partial[1], gradient[1])


@pytest.mark.parametrize("fields", [{"share": 0.0}, {"share": 1.5}, {"start": "zero"}, {"core_experts": 0}])
def test_a_condition_out_of_range_is_refused(fields: dict) -> None:
    with pytest.raises(R2T2Error):
        Condition(**fields)
