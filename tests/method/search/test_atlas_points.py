"""The loss atlas's points and the losses at them, by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax.method.search.atlas_points import (
    bounded,
    candidate_points,
    choose_points,
    cross_entropy,
    interpolate,
    neighborhood_losses,
    squared_distance,
)
from r2t2_jax.routing import RoutingSpec

SIX = RoutingSpec(tuple("abcdef"), 2)
GROUPED = RoutingSpec(("i", "j", "k", "l", "m"), 3, groups=((0, 2, 4), (1, 3)))


def rows(points):
    return {tuple(np.float64(row).round(4).tolist()) for row in points[:, 0]}


def test_candidates_are_corners_center_edges_and_a_sobol_sequence():
    points = candidate_points(SIX, drawn=40)
    assert points.shape == (6 + 1 + 15 + 40, 2, 6)
    np.testing.assert_array_equal(points[:, 0], points[:, 1])
    np.testing.assert_allclose(points.sum(axis=-1), 1, rtol=1e-6)
    assert (points >= 0).all()
    corners = {tuple(map(float, row)) for row in np.eye(6)}
    edges = {tuple(float(x) / 2 for x in np.eye(6)[a] + np.eye(6)[b]) for a, b in itertools.combinations(range(6), 2)}
    assert rows(points[:22]) == corners | edges | {(round(1 / 6, 4),) * 6}
    drawn = points[22:, 0]
    assert len(rows(points)) == len(points)
    np.testing.assert_allclose(drawn.mean(axis=0), 1 / 6, atol=0.03)  # evenly spread over the simplex
    np.testing.assert_array_equal(points, candidate_points(SIX, drawn=40))
    assert not np.array_equal(drawn, candidate_points(SIX, drawn=40, seed=1)[22:, 0])


def test_groups_are_combined_and_support_is_kept():
    points = candidate_points(GROUPED, drawn=8)
    assert len(points) == 7 * 3 + 8
    np.testing.assert_allclose(points[..., [0, 2, 4]].sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(points[..., [1, 3]].sum(axis=-1), 1, rtol=1e-6)
    narrow = RoutingSpec(("a", "b", "c"), 2, support=((0, 1), (0, 1, 2)))
    points = candidate_points(narrow, drawn=8)
    assert (points[:, 0, 2] == 0).all()
    np.testing.assert_allclose(points.sum(axis=-1), 1, rtol=1e-6)


def test_points_minimize_the_loss_of_references_at_their_neighbors_choice():
    # Point 2 costs nothing. Of the others, 3 then moves reference 2 only (0.8 / 3), 0 moves all (1.2 / 3) and
    # so does 1 (1.9 / 3). After 2 and 3, point 0 moves references 0 and 1 (1.1 / 3) and point 1 moves them to worse.
    own = np.array([[0.1, 0.9, 0.0, 0.9], [0.2, 0.9, 0.0, 0.9], [0.9, 0.1, 0.0, 0.8]])
    seen = np.array([[0.1, 0.8, 0.9, 0.9], [0.1, 0.8, 0.9, 0.9], [0.8, 0.2, 0.9, 0.1]])
    np.testing.assert_array_equal(choose_points(own, seen, 3), [2, 3, 0])
    assert sorted(choose_points(own, seen, 9)) == [0, 1, 2, 3]
    np.testing.assert_array_equal(choose_points(own[:, [1, 0]], seen[:, [1, 0]], 2), [1, 0])


def test_losses_are_bounded_and_weighted():
    np.testing.assert_allclose(bounded(jnp.array([0.0, np.log(2.0), 50.0])), [0, 0.5, 1], rtol=1e-6)
    losses = np.array([0.0, 1e-5, 0.7, 4.0])
    np.testing.assert_allclose(cross_entropy(-np.expm1(-losses)), losses, rtol=1e-6)
    table = jnp.array([[0.0, 1.0], [0.5, 0.2], [9.0, 9.0]])
    np.testing.assert_allclose(neighborhood_losses(jnp.array([3.0, 1.0, 0.0]), table), [0.125, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(neighborhood_losses(jnp.zeros(3), table), [0, 0])


def test_the_interpolated_loss_equals_the_points_and_its_gradient_is_correct():
    points = jnp.asarray(candidate_points(SIX, drawn=0)[:7])
    losses = jnp.arange(7.0) / 7
    assert squared_distance(points[0], points[1]) == 2
    for g in range(7):
        np.testing.assert_allclose(interpolate(losses, points, points[g], 0.05), losses[g], atol=1e-6)
    near = points[6] + 0.01 * jnp.arange(12.0).reshape(2, 6)
    slope = jax.grad(interpolate, argnums=2)(losses, points, near, 0.4)
    step = 1e-2 * jnp.cos(jnp.arange(12.0)).reshape(2, 6)
    rise = interpolate(losses, points, near + step, 0.4) - interpolate(losses, points, near - step, 0.4)
    np.testing.assert_allclose(rise, 2 * jnp.vdot(slope, step), rtol=2e-3)
