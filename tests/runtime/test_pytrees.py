"""Structures compare by class, which jaxlib's own registration does not do."""

from dataclasses import dataclass, field

import jax
import pytest

from r2t2_jax.method.kernels import Gaussian, Linear, Matern, Polynomial
from r2t2_jax.method.objectives import Neighborhood, Oracle, SelfConfidence
from r2t2_jax.method.search.gradient_descent import Cosine, Fixed, GradientDescent, StepDecay
from r2t2_jax.method.search.kernel_regression import FixedRouting, KernelRegression
from r2t2_jax.method.search.line_search import LineSearch
from r2t2_jax.method.search.mode_finding import ModeFinding
from r2t2_jax.method.search.random_search import RandomSearch
from r2t2_jax.retrieval.neighbors import EpsilonBall, NearestNeighbors, RandomNeighbors, ShuffledNeighbors
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

FAMILIES = {
    "kernels": [Gaussian(), Gaussian(1.0), Matern(), Matern(1.5, 1.0), Polynomial(), Linear()],
    "selectors": [NearestNeighbors(3), RandomNeighbors(3), ShuffledNeighbors(3), EpsilonBall(1.0, 3)],
    "objectives": [Neighborhood(), Oracle(), SelfConfidence(3)],
    "searches": [
        FixedRouting("uniform"),
        GradientDescent(),
        KernelRegression(),
        LineSearch(10),
        ModeFinding(),
        RandomSearch(10),
    ],
    "schedules": [Cosine(), StepDecay(), Fixed()],
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_alternatives_have_different_structures(family):
    structures = [jax.tree.structure(member) for member in family]
    assert not [(a, b) for i, a in enumerate(structures) for b in structures[:i] if a == b]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_flattening_and_unflattening_is_the_identity(family):
    for member in family:
        leaves, structure = jax.tree.flatten(member)
        assert jax.tree.unflatten(structure, leaves) == member


def test_static_fields_are_structure_and_the_others_are_traced():
    @register_pytree_dataclass
    @dataclass(frozen=True)
    class Pair:
        number: float
        name: str = field(metadata={"static": True})

    assert jax.tree.leaves(Pair(2.0, "a")) == [2.0]
    assert jax.tree.structure(Pair(2.0, "a")) == jax.tree.structure(Pair(3.0, "a"))
    assert jax.tree.structure(Pair(2.0, "a")) != jax.tree.structure(Pair(2.0, "b"))
    assert jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(Pair(2.0, "a"))[0][0]) == ".number"
