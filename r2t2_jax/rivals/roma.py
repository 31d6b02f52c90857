"""RoMA: the neighborhood loss, near the routing of references that were answered correctly.

Axis letters: K neighbors, L routed layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from r2t2_jax.contract import Params, Query, References, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.objectives import Loss, Neighborhood, Objective, effective_weights
from r2t2_jax.method.presets import DescentSettings, NeighborhoodSettings
from r2t2_jax.method.strategies import Strategy, descent_of, kernel_of
from r2t2_jax.retrieval.neighbors import NearestNeighbors
from r2t2_jax.routing import Routing, UpdateSpace
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@dataclass(frozen=True)
class ManifoldPullSettings:
    """Number of neighbors, and lambda of the squared distance to their routing weights."""

    k: int = 3
    proximal_weight: float = 1.0


@register_pytree_dataclass
@dataclass(frozen=True)
class RoMALoss(Objective):
    """L(r) + lambda sum_j W_j |r - r_j|^2 with L the neighborhood loss, W_j = K(x_j, x) / sum_i K(x_i, x).

    RoMA's regularizer (Li et al. 2025, arXiv 2511.07419). The source trains the routers with it, on the successful
    neighbors of each training sample; here it regularizes one test sample's r. |.|^2 is a sum over experts and a mean
    over layers.
    """

    proximal_weight: float = 1.0  # lambda

    needs = Neighborhood.needs
    reads_weights = True

    def __post_init__(self) -> None:
        if isinstance(self.proximal_weight, int | float) and self.proximal_weight < 0:
            raise R2T2Error(f"manifold_pull proximal weight {self.proximal_weight}; it must not be negative")

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        assert references is not None
        assert references.weights is not None
        assert references.routing is not None
        neighborhood = Neighborhood().prepare(model, params, query, references)
        kernel_weights, neighbor_routing = references.weights, references.routing

        def loss(routing: Routing | None) -> Float[Array, ""]:
            weights = effective_weights(model, params, query, routing)
            distance = jnp.square(weights[None] - neighbor_routing).sum(axis=-1).mean(axis=-1)  # [K]
            total = kernel_weights.sum()
            proximal = (kernel_weights * distance).sum() / jnp.where(total > 0, total, 1.0)
            return neighborhood(routing) + self.proximal_weight * proximal

        return loss

    def forwards(self, references: References | None) -> int:
        return Neighborhood().forwards(references)


def manifold_pull(
    neighborhood: NeighborhoodSettings,
    descent: DescentSettings,
    manifold_pull: ManifoldPullSettings,
    space: UpdateSpace,
) -> Strategy:
    """As ngd, with a penalty on the distance from the neighbors' routing weights."""
    return Strategy(
        "manifold_pull",
        NearestNeighbors(manifold_pull.k),
        kernel_of(neighborhood),
        RoMALoss(manifold_pull.proximal_weight),
        descent_of(descent),
        space,
    )
