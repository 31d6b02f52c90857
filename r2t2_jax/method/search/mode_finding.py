"""Mode finding: move to where the references' routing weights are densest.

Axis letters: K neighbors in routing space, N bank size, L routed layers, E experts, Z rows of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Gaussian, Kernel
from r2t2_jax.method.needs import Need
from r2t2_jax.method.search.kernel_regression import weighted_mean
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


def routing_neighborhood(
    weights: Float[Array, "L E"], bank_routing: Float[Array, "N L E"], kernel: Kernel, k: int
) -> tuple[Float[Array, "K"], Float[Array, "K L E"]]:
    """Kernel weights and routing of the k references nearest in routing space (L2 over all layers and experts)."""
    squared = jnp.square(bank_routing - weights[None]).sum(axis=(1, 2))  # [N]
    nearest = jax.lax.top_k(-squared, k)[1]  # [K]
    chosen = bank_routing[nearest]
    dots = (chosen * weights[None]).sum(axis=(1, 2))
    return kernel(jnp.sqrt(squared[nearest]), dots, jnp.ones(k, bool)), chosen


@register_pytree_dataclass
@dataclass(frozen=True)
class ModeFinding:
    """Repeat r <- alpha r + (1 - alpha) r_bar until it stops moving (R2-T2, equations 7 and 8).

    r_bar is the kernel mean of the k reference routings nearest to r. It has converged when no weight moves by more
    than `tolerance` in one iteration; `info` has the `iterations` taken and whether it `converged` before the cap. The
    path holds only the two ends, since its length differs between samples.
    """

    kernel: Kernel = field(default_factory=Gaussian)
    k: int = field(default=5, metadata={"static": True})
    alpha: float = 0.5
    tolerance: float = 1e-4
    max_iterations: int = 100

    uses_router = True
    needs = frozenset({Need.BANK_ROUTING})

    def __post_init__(self) -> None:
        if self.k < 1:
            raise R2T2Error(f"mode finding among k={self.k} references; it must be at least 1")
        if isinstance(self.alpha, int | float) and not 0 <= self.alpha < 1:
            raise R2T2Error(f"mode finding with alpha {self.alpha}; it must lie in [0, 1), at 1 nothing moves")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        assert problem.references is not None
        assert problem.references.bank_routing is not None
        bank_routing = problem.references.bank_routing
        if self.k > len(bank_routing):
            raise R2T2Error(
                f"mode_finding looks at k={self.k} references of {len(bank_routing)}; lower mode.k or collect more"
            )

        def shifted(point: Float[Array, "Z E"]) -> tuple[Float[Array, "Z E"], Bool[Array, ""]]:
            own = problem.routing(point).values  # [L, E]
            weights, routing = routing_neighborhood(own, bank_routing, self.kernel, self.k)
            isolated = weights.sum() == 0
            mean = problem.coordinates(jnp.where(isolated, own, weighted_mean(weights, routing)))
            return self.alpha * point + (1 - self.alpha) * mean, isolated

        def moving(state: tuple[Float[Array, "Z E"], Float[Array, ""], Int[Array, ""]]) -> Bool[Array, ""]:
            _, moved, iterations = state
            return (moved > self.tolerance) & (iterations < self.max_iterations)

        def iterate(
            state: tuple[Float[Array, "Z E"], Float[Array, ""], Int[Array, ""]],
        ) -> tuple[Float[Array, "Z E"], Float[Array, ""], Int[Array, ""]]:
            point, _, iterations = state
            new, _ = shifted(point)
            return new, jnp.abs(new - point).max(), iterations + 1

        start = problem.start()
        _, isolated = shifted(start)
        far = jnp.asarray(jnp.inf, start.dtype)
        end, moved, iterations = jax.lax.while_loop(moving, iterate, (start, far, jnp.asarray(0)))
        info = {"iterations": iterations, "converged": moved <= self.tolerance}
        return SearchResult(jnp.stack([start, end]), jnp.zeros(0), info, evaluations=0, used_fallback=isolated)
