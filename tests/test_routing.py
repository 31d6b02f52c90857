"""Routing weights: structure, projection against a reference solver, update spaces."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2t2_jax import routing
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import SPACES, RoutingSpec, UpdateSpace, restrict, uniform

ONE_GROUP = RoutingSpec(("a", "b", "c", "d"), 2)
TWO_GROUPS = RoutingSpec(("a", "b", "c", "d", "e"), 2, groups=((0, 3), (4, 1, 2)))
EVERY = jnp.ones((2, 5), bool)
project_simplex, group_softmax = (
    jax.jit(f, static_argnums=0) for f in (routing.project_simplex, routing.group_softmax)
)
numbers = st.floats(-3, 3, width=32)


def nearest_by_bisection(values: np.ndarray) -> np.ndarray:
    """The simplex projection max(v - t, 0) with t found by bisection on the sum: the KKT conditions, no sorting."""
    low, high = values.min() - 1, values.max()
    for _ in range(100):
        threshold = (low + high) / 2
        low, high = (threshold, high) if np.maximum(values - threshold, 0).sum() > 1 else (low, threshold)
    return np.maximum(values - high, 0)


@given(st.lists(numbers, min_size=10, max_size=10))
def test_projection_equals_a_reference_solver(values):
    values = np.array(values, np.float32).reshape(2, 5)
    projected = np.asarray(project_simplex(TWO_GROUPS, jnp.asarray(values), EVERY))
    for row in range(2):
        for group in TWO_GROUPS.groups:
            columns = list(group)
            expected = nearest_by_bisection(values[row, columns].astype(np.float64))
            np.testing.assert_allclose(projected[row, columns], expected, atol=2e-6)


def test_projection_beats_every_point_of_a_fine_grid():
    values = jnp.array([[0.9, -0.4, 0.6]])
    spec = RoutingSpec(("a", "b", "c"), 1)
    ours = float(jnp.linalg.norm(project_simplex(spec, values, jnp.ones((1, 3), bool)) - values))
    a, b = np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201))
    grid = np.stack([a, b, 1 - a - b], axis=-1)[a + b <= 1]
    assert ours <= np.linalg.norm(grid - np.asarray(values), axis=-1).min() + 1e-6


@given(st.lists(numbers, min_size=10, max_size=10), st.lists(st.booleans(), min_size=10, max_size=10))
def test_projection_and_softmax_stay_on_the_support(values, live):
    values, live = jnp.array(values, jnp.float32).reshape(2, 5), jnp.array(live).reshape(2, 5)
    for function in (project_simplex, group_softmax):
        weights = np.asarray(function(TWO_GROUPS, values, live))
        assert (weights >= 0).all()
        assert not weights[~np.asarray(live)].any()
        for group in TWO_GROUPS.groups:
            total = weights[:, list(group)].sum(axis=1)
            np.testing.assert_allclose(total, np.asarray(live)[:, list(group)].any(axis=1), atol=1e-5)


def test_projection_leaves_the_simplex_unchanged():
    weights = jnp.array([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0]])
    np.testing.assert_allclose(project_simplex(ONE_GROUP, weights, jnp.ones((2, 4), bool)), weights, atol=1e-7)


def test_restrict_keeps_each_groups_sum():
    live = jnp.array([[True, False, True, True, True], [True, False, False, True, False]])
    weights = jnp.array([[0.3, 0.5, 0.2, 0.7, 0.4], [0.3, 0.5, 0.2, 0.7, 0.4]])
    expected = [[0.3, 0, 1.1 / 3, 0.7, 2.2 / 3], [0.3, 0, 0, 0.7, 0]]  # nothing live in a group: nothing to keep
    np.testing.assert_allclose(restrict(TWO_GROUPS, weights, live), expected, rtol=1e-6)
    np.testing.assert_array_equal(restrict(TWO_GROUPS, weights, EVERY), weights)


def test_uniform_and_one_hot_experts():
    np.testing.assert_allclose(uniform(TWO_GROUPS, EVERY)[0], [1 / 2, 1 / 3, 1 / 3, 1 / 2, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(TWO_GROUPS.one_hot_experts(["d"])[1], [0, 1 / 3, 1 / 3, 1, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(ONE_GROUP.one_hot_experts(["a", "c"])[0], [0.5, 0, 0.5, 0], rtol=1e-6)
    with pytest.raises(R2T2Error, match="unknown experts"):
        ONE_GROUP.one_hot_experts(["z"])


def test_support_by_layer():
    spec = RoutingSpec(("a", "b", "c"), 2, support=((0, 1), (2,)))
    np.testing.assert_array_equal(spec.support_mask(), [[True, True, False], [False, False, True]])
    np.testing.assert_allclose(uniform(spec, spec.support_mask()), [[0.5, 0.5, 0], [0, 0, 1]])


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_space_starts_at_the_routers_weights(kind, tied):
    live = jnp.ones((2, 4), bool)
    own = group_softmax(ONE_GROUP, jax.random.normal(jax.random.key(0), (2, 4)), live)
    space = UpdateSpace(kind, tied)
    start = space.start(ONE_GROUP, own, live)
    assert start.shape == ((1, 4) if tied else (2, 4))
    result = space.routing(ONE_GROUP, space.retract(ONE_GROUP, start, live), live)
    if kind == "shift":
        assert result.mode == "shift"
        assert not result.values.any()
    else:
        expected = jnp.broadcast_to(own.mean(axis=0, keepdims=True), (2, 4)) if tied else own
        # tied logits are logs of the mean weights: softmax brings the mean back
        np.testing.assert_allclose(result.values, expected, atol=1e-6)
        assert result.mode == "replace"


@partial(jax.jit, static_argnums=0)
def onto(space, values, live):
    """The weights that a step to `values` ends at."""
    return space.routing(TWO_GROUPS, space.retract(TWO_GROUPS, values, live), live).values


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("tied", [False, True])
@given(values=st.lists(numbers, min_size=10, max_size=10))
def test_no_space_leaves_the_support(kind, tied, values):
    live = jnp.array([[True, False, True, True, True], [True, True, False, True, False]])
    values = jnp.array(values, jnp.float32).reshape(2, 5)[: 1 if tied else 2]
    space = UpdateSpace(kind, tied)
    weights = onto(space, values, live)
    assert not np.asarray(weights)[~np.asarray(live)].any()
    if kind in ("simplex", "logit"):
        np.testing.assert_allclose(weights.sum(axis=1), 2, atol=1e-5)  # two groups, each sums to one


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: UpdateSpace("spherical"), "unknown update space 'spherical'"),
        (lambda: RoutingSpec(("a", "b"), groups=((0,),)), "exactly once"),
        (lambda: RoutingSpec(("a", "b"), 2, support=((0,),)), "support"),
        (lambda: RoutingSpec(("a", "b"), 1, support=((),)), "support"),
        (lambda: RoutingSpec("abcdef"), "as a tuple, one for each, not as the text 'abcdef'"),
        (lambda: RoutingSpec(("a", "b"), "layer"), "not as the text 'layer'"),
        (lambda: RoutingSpec(("a", "b", "a")), "expert 'a' is named twice"),
        (lambda: RoutingSpec(("a", "b"), ("x", "x")), "layer 'x' is named twice"),
        (lambda: RoutingSpec(()), "at least one expert"),
        (lambda: RoutingSpec(("a", ""), 1), "each has a name"),
        (lambda: RoutingSpec(("a", "b"), 0), "at least one layer"),
    ],
)
def test_bad_structures_are_refused(make, cause):
    with pytest.raises(R2T2Error, match=cause):
        make()
