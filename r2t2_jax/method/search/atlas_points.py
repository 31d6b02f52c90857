"""The routing points of the loss atlas, and losses at them.

Routing weights are few numbers and the references never change, so each reference's answer loss is tabulated once at G
fixed routing points. At test time the neighborhood's loss at these points is a weighted sum of table rows, without a
model pass.

Losses in the table are bounded, 1 - exp(-l) with l the mean cross-entropy of the answer's tokens: one minus the
geometric mean of their probabilities. A reference that no routing answers correctly then adds at most 1, so it
cannot dominate a mean. `cross_entropy` reads l from the table instead, row by row, before any mean.

With many experts, corners and random points of a simplex are far from everything the model was trained with. Points are
then shifts of a sample's own logits, along directions that the references' routing gives (`reference_shifts`), or, on
request, convex mixtures of the references' routing with a sample's own (`reference_mixtures`).

Axis letters: N references, n of them, K neighbors, P candidate points, G chosen points, L routed layers, E experts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import RoutingSpec, by_group, project_simplex, restrict

LARGE = 16  # experts from which on points are shifts
SIZES = (1.0, 3.0)  # of a shift: its largest entry, in logits
SHARES = (0.25, 0.5)  # of the references' routing in a mixture
CLUSTERS, DIRECTIONS = 16, 8
LEVELS = 255  # a loss in [0, 1] is stored in steps of 1/255

AtlasLoss = Literal["bounded", "cross_entropy"]
PointsMode = Literal["replace", "shift", "mixture"]
PointsKind = Literal["auto", "shifts", "mixtures"]


def cross_entropy(bounded: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """-log(1 - b), the l of a bounded loss b below 1."""
    return -np.log1p(-bounded)


_STEPS = np.arange(LEVELS + 1, dtype=np.float32)
DEQUANTIZE: dict[AtlasLoss, Float[np.ndarray, "256"]] = {  # the loss of each stored byte
    "bounded": _STEPS / LEVELS,
    "cross_entropy": cross_entropy(np.minimum(_STEPS, LEVELS - 0.5) / np.float64(LEVELS)).astype(np.float32),
}


def candidate_points(spec: RoutingSpec, drawn: int = 106, seed: int = 0) -> Float[np.ndarray, "P L E"]:
    """Points that cover routing space, the same weights in every layer: structured ones first, then drawn ones.

    The structured points are the vertices, the center, and the midpoints of the edges of each group of experts, in
    every combination of the groups. The drawn ones are points of a scrambled Sobol sequence on the product of the
    groups' simplices, uniform on each (the gaps between sorted uniform numbers). All are brought onto the spec's
    support.

    Args:
        spec: names and structure of the routing weights.
        drawn: how many points of the Sobol sequence.
        seed: scrambles it.
    """
    from scipy.stats import qmc  # slow to import, and needed only offline

    parts = [list(_structured(len(group))) for group in spec.groups]
    rows = [_join(spec, combination) for combination in itertools.product(*parts)]
    sizes = [len(group) - 1 for group in spec.groups]
    if drawn and sum(sizes):
        uniform = qmc.Sobol(sum(sizes), seed=seed).random_base2(max(1, math.ceil(math.log2(drawn))))[:drawn]
        cuts = np.cumsum(sizes)[:-1]
        rows += [_join(spec, [_gaps(part) for part in np.split(row, cuts)]) for row in uniform]
    tied = np.asarray(rows, np.float32)[:, None]  # [P, 1, E]
    points = jnp.broadcast_to(tied, (len(rows), *spec.shape))  # [P, L, E]
    return np.asarray(restrict(spec, points, jnp.asarray(spec.support_mask())))


def points_mode(spec: RoutingSpec, kind: PointsKind = "auto", has_gate: bool = True) -> PointsMode:
    """What points are: routing weights, shifts of a sample's own logits, or mixtures with a sample's own weights.

    By default they are shifts where there are many experts, else weights.

    Args:
        spec: of the model.
        kind: the kind of points to make.
        has_gate: whether the model has a gate, whose logits can be shifted.

    Raises:
        R2T2Error: shifts of a model without a gate, or no such kind.
    """
    if kind not in ("auto", "shifts", "mixtures"):
        raise R2T2Error(f"there is no kind {kind!r} of atlas points; choose auto, shifts or mixtures")
    if kind == "shifts" and not has_gate:
        raise R2T2Error("points that are shifts need a model with a gate (`route`); choose auto or mixtures")
    if kind == "mixtures":
        return "mixture"
    return "shift" if kind == "shifts" or (has_gate and spec.num_experts > LARGE) else "replace"


def mixed(spec: RoutingSpec, points: Float[Array, "*G L E"], own: Float[Array, "*G L E"]) -> Float[Array, "*G L E"]:
    """Mixtures of a sample's own weights r0 with the points of an atlas: (1 - a) r0 + S m in each group of experts.

    A point m holds the weights that are mixed in, times their share: a is its sum, S that of r0.
    """

    def mix(point: Array, own: Array) -> Array:
        share, total = point.sum(axis=-1, keepdims=True), own.sum(axis=-1, keepdims=True)
        return (1 - share) * own + total * point

    return by_group(spec, mix, points, jnp.broadcast_to(own, points.shape))


def reference_shifts(
    routing: Float[np.ndarray, "N L E"], categories: Sequence[str], seed: int = 0
) -> Float[np.ndarray, "P L E"]:
    """Shifts of the logits along directions of the references' routing; the first is zero, the untouched model.

    Directions are the differences from the mean routing of (a) k-means centroids over [L, E], (b) the mean of each
    category, the boost of Routing Distraction (arXiv 2604.08541), and (c) the first principal directions with both
    signs. Each is scaled so that its largest entry is 1, and taken at every size in `SIZES`.

    Args:
        routing: of the references that the model answers correctly.
        categories: of these references; empty names are no category.
        seed: of the first centroids.
    """
    flat, _, parts = _directions(routing, categories, seed)
    directions = [*parts.centroids, *parts.means, *(sign * d for d in parts.principal for sign in (1, -1))]
    scaled = [d / np.abs(d).max() for d in directions if np.abs(d).max() > 1e-9]
    shifts = [np.zeros(flat.shape[1]), *(size * direction for size in SIZES for direction in scaled)]
    return np.asarray(shifts, np.float32).reshape(len(shifts), *routing.shape[1:])


def reference_mixtures(
    spec: RoutingSpec, routing: Float[np.ndarray, "N L E"], categories: Sequence[str], seed: int = 0
) -> Float[np.ndarray, "P L E"]:
    """Points for `mixed` from the references' routing; the first is zero, the sample's own weights.

    The routings that are mixed in, at every share in `SHARES`, are (a) k-means centroids over [L, E], (b) the mean of
    each category, and (c) the overall mean moved by one standard deviation along the first principal directions, with
    both signs, projected to the simplex.

    Args:
        spec: of the model.
        routing, categories, seed: as for `reference_shifts`.
    """
    flat, mean, parts = _directions(routing, categories, seed)
    deviation = np.sqrt(len(flat))
    rows = [*parts.centroids, *parts.means, *(sign * d / deviation for d in parts.principal for sign in (1, -1))]
    moved = np.stack([mean, *(mean + row for row in rows)]).reshape(-1, *routing.shape[1:])
    weights = np.asarray(project_simplex(spec, jnp.asarray(moved, jnp.float32), jnp.ones(spec.shape, bool)))
    weights = np.unique(weights.round(6), axis=0)
    return np.concatenate([np.zeros((1, *weights.shape[1:]), np.float32), *(share * weights for share in SHARES)])


class _Directions(NamedTuple):
    """Differences from the mean routing: of centroids and categories; principal directions by singular value."""

    centroids: Float[np.ndarray, "C L*E"]
    means: list[Float[np.ndarray, "L*E"]]
    principal: list[Float[np.ndarray, "L*E"]]


def _directions(
    routing: Float[np.ndarray, "N L E"], categories: Sequence[str], seed: int
) -> tuple[Float[np.ndarray, "N L*E"], Float[np.ndarray, "L*E"], _Directions]:
    """Flat routing, its mean, and the directions in which references differ from it."""
    from scipy.cluster.vq import kmeans  # slow to import, and needed only offline

    flat = np.asarray(routing, np.float64).reshape(len(routing), -1)  # [N, L * E]
    mean = flat.mean(axis=0)
    centered = flat - mean
    distinct = np.unique(centered.round(9), axis=0)
    starts = np.random.default_rng(seed).permutation(len(distinct))[:CLUSTERS]
    centroids, _ = kmeans(centered, distinct[starts])  # clusters without members are dropped
    names = np.array(list(categories))
    means = [centered[names == name].mean(axis=0) for name in np.unique(names) if name]
    _, values, vectors = np.linalg.svd(centered, full_matrices=False)
    pairs = list(zip(values, vectors, strict=True))[:DIRECTIONS]
    principal = [value * vector for value, vector in pairs if value > 1e-6 * values[0]]
    return flat, mean, _Directions(centroids, means, principal)


def max_candidates(spec: RoutingSpec, drawn: int, seed: int) -> int:
    """The number of candidate points, at most: categories count as many as clusters."""
    if points_mode(spec) == "shift":
        return 1 + len(SIZES) * 2 * (CLUSTERS + DIRECTIONS)
    return len(candidate_points(spec, drawn, seed))


def _structured(size: int) -> Iterator[np.ndarray]:
    corners = np.eye(size)
    yield from corners
    if size > 1:
        yield np.full(size, 1 / size)
    if size > 2:  # of two experts, the midpoint of the edge is the center
        yield from ((corners[a] + corners[b]) / 2 for a, b in itertools.combinations(range(size), 2))


def _gaps(uniform: Float[np.ndarray, "d"]) -> Float[np.ndarray, "d+1"]:
    return np.diff(np.sort(uniform), prepend=0.0, append=1.0)


def _join(spec: RoutingSpec, parts: tuple[np.ndarray, ...] | list[np.ndarray]) -> Float[np.ndarray, "E"]:
    row = np.zeros(spec.num_experts)
    for group, part in zip(spec.groups, parts, strict=True):
        row[list(group)] = part
    return row


def bounded(loss: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """1 - exp(-l), in [0, 1)."""
    return -jnp.expm1(-loss)


def choose_points(
    own: Float[np.ndarray, "n P"], neighborhood: Float[np.ndarray, "n P"], count: int
) -> Int[np.ndarray, "G"]:
    """Greedy choice of points by the leave-one-out loss of the references.

    A reference takes the chosen point of lowest neighborhood loss and incurs its own loss there. Each step adds the
    point with the lowest mean incurred loss over the references, the first of equal ones.

    Args:
        own: each reference's own loss at the candidates.
        neighborhood: the kernel-weighted loss of its neighbors there, itself excluded.
        count: how many to choose; all of them where there are no more candidates.
    """
    n, candidates = own.shape
    lowest, incurred = np.full(n, np.inf), np.zeros(n)
    left, chosen = list(range(candidates)), list[int]()
    while left and len(chosen) < count:
        better = neighborhood[:, left] < lowest[:, None]  # [n, candidates left]
        mean_loss = np.where(better, own[:, left], incurred[:, None]).mean(axis=0)
        best = int(mean_loss.argmin())
        point, moved = left.pop(best), better[:, best]
        lowest = np.where(moved, neighborhood[:, point], lowest)
        incurred = np.where(moved, own[:, point], incurred)
        chosen.append(point)
    return np.array(chosen)


def neighborhood_losses(weights: Float[Array, "K"], point_losses: Float[Array, "K G"]) -> Float[Array, "G"]:
    """sum_i K(x_i, x) l_i(r_g) / sum_i K(x_i, x) at every point; zero where no reference has any weight."""
    total = weights.sum()
    return jnp.matmul(weights, point_losses, precision="highest") / jnp.where(total > 0, total, 1.0)


def squared_distance(a: Float[Array, "*G L E"], b: Float[Array, "*G L E"]) -> Float[Array, "*G"]:
    """|a - b|^2 over the experts, the mean over layers: the same for tied weights however many layers there are."""
    return jnp.square(a - b).sum(axis=-1).mean(axis=-1)


def interpolate(
    losses: Float[Array, "G"], points: Float[Array, "G L E"], weights: Float[Array, "L E"], bandwidth: float | Array
) -> Float[Array, ""]:
    """A smooth loss between the points: their Gaussian-weighted mean (Nadaraya 1964, Watson 1964)."""
    distance = squared_distance(points, weights[None])  # [G]
    near = jax.nn.softmax(-distance / (2 * jnp.square(jnp.asarray(bandwidth, distance.dtype))))
    return jnp.vdot(near, losses, precision="highest")
