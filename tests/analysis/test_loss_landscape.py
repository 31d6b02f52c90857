"""Losses at candidate routings: the candidates, their losses, and rank correlation."""

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax.analysis.loss_landscape import CANDIDATES, candidate_routings, losses_at, rank_correlation
from r2t2_jax.method.objectives import Neighborhood, Oracle
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy
from r2t2_jax.routing import Routing, RoutingSpec
from tests.toy import MODEL, references_for, toy_bank, toy_params, toy_queries

SPEC = RoutingSpec(("a", "b", "c", "d", "e"), layers=3, groups=((0, 1, 2), (3, 4)))


def test_candidates_are_routings_on_every_samples_support() -> None:
    support = np.ones((2, 3, 5), bool)
    support[1, :, 1] = False
    weights = np.asarray(candidate_routings(SPEC, support))  # [B, G, L, E]
    assert weights.shape == (2, CANDIDATES, 3, 5)
    assert (weights >= 0).all() and not weights[1, ..., 1].any()
    np.testing.assert_allclose(weights[..., :3].sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights[..., 3:].sum(axis=-1), 1, rtol=1e-5)
    single = (weights[0] > 0.99).any(axis=(0, 1))
    assert single.all()  # each expert has all the weight of its group at some candidate
    tied = (np.ptp(weights[0], axis=1) < 1e-6).all(axis=1)
    assert 0 < tied.sum() < CANDIDATES
    assert len(np.unique(weights[0].round(4), axis=0)) > CANDIDATES - 3
    np.testing.assert_array_equal(weights, candidate_routings(SPEC, support))


def test_losses_are_those_of_the_objective_at_each_point() -> None:
    queries, embeddings = toy_queries(3)
    references = references_for(strategy("ngd", Preset.from_mapping({"neighborhood.k": 4})), toy_bank(), embeddings)
    candidates = candidate_routings(MODEL.spec, queries.support)
    own = losses_at(Oracle(), MODEL, toy_params(), queries, None, candidates)
    near = losses_at(Neighborhood(), MODEL, toy_params(), queries, references, candidates)
    assert own.shape == near.shape == (3, CANDIDATES)
    loss = jax.jit(MODEL.answer_loss)
    for b, g in ((0, 0), (2, 7)):
        routing = Routing(candidates[b, g])
        query, near_b = jax.tree.map(lambda leaf, b=b: leaf[b], (queries, (references.features, references.answers)))
        np.testing.assert_allclose(own[b, g], loss(toy_params(), query.features, routing, query.answer), rtol=1e-5)
        each = [jax.tree.map(lambda leaf, k=k: leaf[k], near_b) for k in range(4)]
        losses = [loss(toy_params(), features, routing, answer) for features, answer in each]
        np.testing.assert_allclose(near[b, g], np.average(losses, weights=references.weights[b]), rtol=1e-5)


def test_without_routing_the_model_is_untouched() -> None:
    queries, _ = toy_queries(3)
    untouched = losses_at(Oracle(), MODEL, toy_params(), queries, None, None)
    own = losses_at(Oracle(), MODEL, toy_params(), queries, None, jnp.asarray(queries.routing)[:, None])
    np.testing.assert_allclose(untouched, own, rtol=1e-5)  # the toy has one gate for all tokens


def test_rank_correlation_equals_a_hand_calculation() -> None:
    left = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5, 5], [1, 1, 2, 3]])
    right = np.array([[10.0, 20, 30, 1e9], [4, 3, 2, 1], [1, 2, 3, 4], [1, 2, 3, 3]])
    # Centered ranks of the last row: -1 -1 0.5 1.5 and -1.5 -0.5 1 1; product 4, squares 4.5 and 4.5.
    np.testing.assert_allclose(rank_correlation(left, right), [1, -1, 0, 4 / 4.5])
