"""The neighbourhood loss, kept near the routing of references that were answered correctly.

Axis letters: K neighbours, L routed layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from r2t2_jax.contract import Params, Query, References, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.objectives import Neighborhood, effective_weights
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class RoMALoss:
    """L(r) + lambda sum_j W_j |r - r_j|^2 with L the neighbourhood loss, W_j = K(x_j, x) / sum_i K(x_i, x).

    RoMA's regulariser (Li et al. 2025, arXiv 2511.07419). The source trains the routers with it, on the successful
    neighbours of each training sample; here it pulls one test sample's r. |.|^2 sums over experts and is a mean over
    layers.
    """

    pull: float = 1.0  # lambda

    reads_weights = True

    def __post_init__(self) -> None:
        if isinstance(self.pull, int | float) and self.pull < 0:
            raise R2T2Error(f"pull {self.pull} towards the neighbours' weights; it must not be negative")

    def __call__(
        self, model: RoutedLoss, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]:
        assert references is not None
        assert references.weights is not None
        assert references.routing is not None
        weights = effective_weights(model, params, query, routing)
        apart = jnp.square(weights[None] - references.routing).sum(axis=-1).mean(axis=-1)  # [K]
        total = references.weights.sum()
        pull = (references.weights * apart).sum() / jnp.where(total > 0, total, 1.0)
        return Neighborhood()(model, params, query, references, routing) + self.pull * pull

    def forwards(self, references: References | None) -> int:
        return Neighborhood().forwards(references)
