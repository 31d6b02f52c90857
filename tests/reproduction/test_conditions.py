"""What rows are given: other references, other starts, fewer experts and layers; on the toy port, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.reproduction.conditions import LastLayers, given_queries, open_bench
from r2t2_jax.reproduction.measure import shared
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
    return shared(collect_bank(port, make_samples(60, seed=1, told=0.5), METRIC, keep_wrong=True))


@pytest.fixture(scope="module")
def questions(port):
    return encode_questions(port, make_samples(9, seed=2, told=0.0))


def asked(port, bank, questions, given: Condition):
    ready = open_bench(port, bank, {"ngd": strategy("ngd", PRESET)}, given, METRIC, 0)
    return ready.prepare_batch(questions, np.arange(len(questions.samples)))


def neighbors(evaluation) -> list[list[dict]]:
    rows = evaluation.neighbors.indices("ngd", np.arange(len(evaluation.questions.samples)))
    return [[evaluation.neighbors.index.bank.records[j] for j in row] for row in rows.tolist()]


def test_features_behind_a_reader_are_the_same(port, bank, questions) -> None:
    whole = collect_bank(port, make_samples(60, seed=1, told=0.5), METRIC, keep_wrong=True)
    found = [asked(port, one, questions, Condition()).answer("ngd", np.arange(4)) for one in (whole, bank)]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_neighbours_are_right_and_of_the_same_family_unless_told_otherwise(port, bank, questions) -> None:
    for sample, near in zip(questions.samples, neighbors(asked(port, bank, questions, Condition())), strict=True):
        assert all(record["correct"] and record["category"] == sample.category for record in near)


def test_foreign_neighbours_are_of_other_families(port, bank, questions) -> None:
    found = neighbors(asked(port, bank, questions, Condition(foreign=True)))
    for sample, near in zip(questions.samples, found, strict=True):
        assert all(record["correct"] and record["category"] != sample.category for record in near)


def test_wrong_references_are_neighbours_where_they_are_kept(port, bank, questions) -> None:
    found = asked(port, bank, questions, Condition(keep_wrong=True))
    assert len(found.neighbors.index.correct) == 60
    assert any(not record["correct"] for near in neighbors(found) for record in near)


def test_a_share_is_drawn_by_its_seed(port, bank, questions) -> None:
    batches = [asked(port, bank, questions, Condition(share=0.5, draw=draw)) for draw in (0, 0, 1)]
    ids = [[record["id"] for record in batch.neighbors.records] for batch in batches]
    assert len(ids[0]) == 30
    assert ids[0] == ids[1] != ids[2]


def test_another_embedder_finds_other_neighbours(port, bank, questions) -> None:
    found = asked(port, bank, questions, Condition(embedder="hashed_words"))
    assert found.neighbors.index.bank.embeddings.shape == (60, 512)
    assert found.neighbors.index.bank.embedder_fingerprint.startswith("hashed_words")


def test_uniform_weights_stand_for_the_routers(questions) -> None:
    queries = given_queries(SPEC, questions.queries, Condition(start="uniform"))
    np.testing.assert_allclose(queries.routing, np.full((9, 2, 3), 1 / 3), rtol=1e-6)


def test_core_experts_are_those_with_most_weight(questions) -> None:
    routing = jnp.broadcast_to(jnp.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]), (9, 2, 3))
    queries = dataclasses.replace(questions.queries, routing=routing)
    support = given_queries(SPEC, queries, Condition(core_experts=2)).support
    np.testing.assert_array_equal(support[0], [[False, True, True], [True, False, True]])
    np.testing.assert_array_equal(given_queries(SPEC, queries, Condition(core_experts=3)).support, queries.support)


def test_only_the_last_layer_moves(port, bank, questions) -> None:
    found = asked(port, bank, questions, Condition(last_layers=1)).answer("ngd", np.arange(9))
    before = np.asarray(questions.queries.routing)
    np.testing.assert_allclose(found["weights"][:, 0], before[:, 0], atol=1e-6)
    assert np.abs(found["weights"][:, 1] - before[:, 1]).max() > 0.05
    every = asked(port, bank, questions, Condition()).answer("ngd", np.arange(9))
    assert np.abs(every["weights"][:, 0] - before[:, 0]).max() > 0.05


def test_held_layers_have_no_slope_and_the_same_loss() -> None:
    features = {"votes": jnp.eye(3, 5), "gate": jnp.zeros(3)}
    params, weights = {"gate": jnp.asarray(4.0), "scale": jnp.asarray(8.0)}, jnp.full((2, 3), 1 / 3)

    def loss(model, weights):
        return model.answer_loss(params, features, Routing(weights), jnp.asarray(1))

    whole, held = ToyModel(), LastLayers(ToyModel(), 1)
    assert loss(whole, weights) == loss(held, weights)
    slope, part = (jax.grad(lambda w, m=model: loss(m, w))(weights) for model in (whole, held))
    np.testing.assert_array_equal(part[0], 0)
    np.testing.assert_array_equal(part[1], slope[1])


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.5}, {"start": "zero"}, {"core_experts": 0}])
def test_what_cannot_be_given_is_refused(wrong: dict) -> None:
    with pytest.raises(R2T2Error):
        Condition(**wrong)
