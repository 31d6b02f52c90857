"""Searches that read the loss atlas, without a model pass.

Axis letters: K neighbors, G atlas points, L routed layers, E experts, Z rows of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import Need
from r2t2_jax.method.search.atlas_points import SIZES, interpolate, mixed, neighborhood_losses, squared_distance
from r2t2_jax.method.search.kernel_regression import weighted_mean
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

Table = tuple[Float[Array, "G L E"], Float[Array, "G"]]


def atlas_losses_for(problem: RoutingProblem) -> Table:
    """The atlas's points on the sample's support, and the neighborhood's loss at each.

    Points that are mixtures are mixed with the sample's own weights.
    """
    references = problem.references
    assert references is not None
    assert references.points is not None
    assert references.point_losses is not None
    assert references.weights is not None
    points = references.points
    if problem.mixed_points:
        points = mixed(problem.spec, points, problem.query.routing)
    points = jax.vmap(lambda point: problem.routing(problem.point(point)).values)(points)
    # Nothing is fused across this line, so that a batch of one, whose loop is unrolled, computes the same bits.
    return jax.lax.optimization_barrier((points, neighborhood_losses(references.weights, references.point_losses)))


@register_pytree_dataclass
@dataclass(frozen=True)
class AtlasSoftmin:
    """r = sum_g softmax(-(L(r_g) + lambda |r_g - r0|^2) / T) r_g: a soft minimum near the router's weights.

    With `hard`, the result is the point of lowest L(r_g) + lambda |r_g - r0|^2, the first of equal ones. With
    `min_gain`, r0 is kept if the predicted loss at r is not lower than that at r0 by at least so much; both are
    interpolated between the points with `bandwidth`. |.|^2 is a sum over experts and a mean over layers. In the shift
    space r and r_g are shifts, r0 is zero.
    """

    temperature: float = 0.02
    proximal_weight: float = 0.1  # lambda
    bandwidth: float = 0.2
    min_gain: float | None = None
    hard: bool = field(default=False, metadata={"static": True})

    uses_router = True
    needs = frozenset({Need.ATLAS})

    def __post_init__(self) -> None:
        if isinstance(self.temperature, int | float) and not self.temperature > 0:
            raise R2T2Error(f"atlas temperature {self.temperature}; it must be positive")
        if isinstance(self.proximal_weight, int | float) and self.proximal_weight < 0:
            raise R2T2Error(f"atlas proximal weight {self.proximal_weight}; it must not be negative")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        points, losses = atlas_losses_for(problem)
        router = problem.routing(problem.start()).values
        unit = SIZES[-1] if problem.space.kind == "shift" else 1.0  # a shift counts in units of the largest size
        costs = losses + self.proximal_weight * squared_distance(points / unit, router[None] / unit)  # [G]
        if self.hard:
            shares = jax.nn.one_hot(jnp.argmin(costs), costs.shape[0], dtype=costs.dtype)
        else:
            # Outside of a loop the compiler would divide otherwise, and fuse the product with what softmax subtracts.
            sharpness = jax.lax.optimization_barrier(1 / jnp.asarray(self.temperature, costs.dtype))
            shares = jax.nn.softmax(jax.lax.optimization_barrier(-costs * sharpness))
        weights = weighted_mean(shares, points)
        info = {"point": jnp.argmax(shares)}
        if self.min_gain is not None:
            gain = interpolate(losses, points, router, self.bandwidth) - interpolate(
                losses, points, weights, self.bandwidth
            )
            info["kept_router"] = gain < self.min_gain
            weights = jnp.where(info["kept_router"], router, weights)
        path = jnp.stack([problem.start(), problem.point(weights)])  # [2, Z, E]
        return SearchResult(path, jnp.zeros(0), info, evaluations=0)


@register_pytree_dataclass
@dataclass(frozen=True)
class AtlasArgmin:
    """The point of lowest loss, the first of equal ones; the router's weights are used in mixtures only."""

    uses_router = False
    needs = frozenset({Need.ATLAS})

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        points, losses = atlas_losses_for(problem)
        best = jnp.argmin(losses)
        return SearchResult(problem.point(points[best])[None], losses[best][None], {"point": best}, evaluations=0)


@register_pytree_dataclass
@dataclass(frozen=True)
class AtlasTaylor:
    """The minimum of the neighbors' losses, each to first order at its own routing, plus lambda |r - r0|^2.

    L(r) = sum_i w_i (l_i(r_i) + g_i . (r - r_i)) plus the proximal term has its minimum at
    r0 - sum_i w_i g_i / (2 lambda), which is brought back into the update space.
    """

    proximal_weight: float = 0.5  # lambda

    uses_router = True
    needs = frozenset({Need.ATLAS})

    def __post_init__(self) -> None:
        if isinstance(self.proximal_weight, int | float) and not self.proximal_weight > 0:
            raise R2T2Error(f"atlas_taylor proximal weight {self.proximal_weight}; it must be positive")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        references = problem.references
        assert references is not None
        assert references.slopes is not None
        assert references.weights is not None
        slope = weighted_mean(references.weights, references.slopes)  # [L, E]
        start = problem.start()  # [Z, E]
        # The proximal term is a mean over layers, and a tied row moves all of them.
        slope = slope.sum(axis=0, keepdims=True) if problem.space.tied else slope * slope.shape[0]
        path = jnp.stack([start, problem.retract(start - slope / (2 * self.proximal_weight))])
        return SearchResult(path, jnp.zeros(0), {}, evaluations=0)
