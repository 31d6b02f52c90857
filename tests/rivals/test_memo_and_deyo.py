"""Objectives of augmented images: by hand from the toy model's probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.gradient_descent import Fixed, GradientDescent
from r2t2_jax.method.search.problem import RoutingProblem
from r2t2_jax.rivals.deyo import DeYOEntropy
from r2t2_jax.rivals.memo import MarginalEntropy, RestoringDescent, TeacherCrossEntropy
from r2t2_jax.routing import UpdateSpace
from tests.method.cases import ROUTING, mean_entropy, one_case, own_answer, probabilities, value_of
from tests.toy import MODEL, A, toy_queries


def view(query, number):
    return jax.tree.map(lambda leaf: leaf[number], query.views)


def marginal(query, numbers, answer):
    """Entropy of the mean over some views, in nats."""
    p = [probabilities(view(query, number), ROUTING, answer) for number in numbers]
    mean = np.mean([each for each, _ in p], axis=0)[p[0][1]]
    return np.mean(-(mean * np.log(mean)).sum(axis=-1))


def test_memo_is_the_entropy_of_the_mean_over_all_views():
    query, _ = case = one_case()
    objective = MarginalEntropy(A, 3)
    np.testing.assert_allclose(value_of(objective, case), marginal(query, [0, 1, 2], own_answer(query)), rtol=1e-5)
    assert (objective.prepare_forwards, objective.forwards(None)) == (1, 3)


@pytest.mark.parametrize("number", range(5))
def test_tpt_selects_the_views_of_lowest_entropy(number):
    query, _ = case = one_case(number)
    answer = own_answer(query)
    surest = np.argsort([mean_entropy(view(query, i), None, answer) for i in range(3)])[:2]
    objective = MarginalEntropy(A, 3, 2)
    np.testing.assert_allclose(value_of(objective, case), marginal(query, surest, answer), rtol=1e-5)
    assert (objective.prepare_forwards, objective.forwards(None)) == (4, 2)


@pytest.mark.parametrize("number", range(5))
def test_deyo_weights_by_entropy_and_by_the_drop_from_shuffled_patches(number):
    query, _ = case = one_case(number)
    answer = own_answer(query)
    first, value = (mean_entropy(query.features, routing, answer) for routing in (None, ROUTING))

    def sure_of_it(features):
        p, mask = probabilities(features, None, answer)
        return np.exp(np.mean(np.log(p[np.arange(A), np.asarray(answer["tokens"])])[mask]))

    drop = sure_of_it(query.features) - sure_of_it(query.shuffled)
    expected = (np.exp(1.0 - first) + np.exp(drop)) * value
    np.testing.assert_allclose(value_of(DeYOEntropy(A, 1.0, drop - 0.01), case), expected * (first < 1.25), rtol=1e-4)
    assert value_of(DeYOEntropy(A, 1.0, drop + 0.01), case) == 0
    assert value_of(DeYOEntropy(A, first / 1.25 - 0.01, drop - 0.01), case) == 0


def test_numbers_of_views_out_of_range_are_refused():
    with pytest.raises(R2T2Error, match="4 views selected of 3"):
        MarginalEntropy(A, 3, 4)
    with pytest.raises(R2T2Error, match="0 views selected of 0"):
        MarginalEntropy(A, 0)


def test_cotta_is_the_cross_entropy_with_the_mean_over_views_of_the_untouched_model():
    query, _ = case = one_case()
    answer = own_answer(query)
    views = [probabilities(view(query, i), None, answer) for i in range(3)]
    teacher, mask = np.mean([p for p, _ in views], axis=0), views[0][1]
    student, _ = probabilities(query.features, ROUTING, answer)
    expected = np.mean(-(teacher * np.log(student)).sum(axis=-1)[mask])
    objective = TeacherCrossEntropy(A, 3)
    np.testing.assert_allclose(value_of(objective, case), expected, rtol=1e-5)
    assert (objective.prepare_forwards, objective.forwards(None)) == (4, 1)


def quadratic_problem():
    query = jax.tree.map(lambda leaf: leaf[0], toy_queries()[0])
    target = jnp.full(MODEL.spec.shape, 0.25)
    return RoutingProblem(
        MODEL.spec, UpdateSpace("free"), query, None, lambda routing: jnp.square(routing.values - target).sum(), 1
    )


def test_restoring_returns_weights_to_the_router():
    problem, descent = quadratic_problem(), GradientDescent(Fixed(0.1), steps=6)
    plain = descent(problem, jax.random.key(0))
    never, always, half = (RestoringDescent(descent, p)(problem, jax.random.key(1)) for p in (0.0, 1.0, 0.5))
    np.testing.assert_array_equal(never.path, plain.path)
    np.testing.assert_array_equal(always.path, np.broadcast_to(problem.start(), always.path.shape))
    restored = np.asarray(half.path[1:] == problem.start()[None])  # a coordinate at its start was just restored
    assert 0.3 < restored.mean() < 0.7
    assert half.evaluations == plain.evaluations == 12
    with pytest.raises(R2T2Error, match=r"cotta\.restore 1\.5"):
        RestoringDescent(descent, 1.5)
