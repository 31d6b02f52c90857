"""Line search between the router's weights and the kernel mean.

Axis letters: Q evaluated points, Z rows of coordinates, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import Need
from r2t2_jax.method.search.kernel_regression import kernel_mean
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult, running_argmin
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

Bracket = tuple[Array, Array, Array, Array, Array, Array]  # low, left, right, high; the loss at left and right

GOLDEN = (5**0.5 - 1) / 2  # each new point shrinks the bracket by this factor


@register_pytree_dataclass
@dataclass(frozen=True)
class LineSearch:
    """alpha in [0, 1] that minimizes L(alpha r0 + (1 - alpha) r_hat) (R2-T2, equations 5 and 6).

    The paper says binary search. Bisection needs the sign of the derivative, a value and gradient at every point; the
    golden section (Kiefer 1953) compares values only: half the cost per point, and no backward pass in memory. Neither
    is sure to find the minimum unless the loss is unimodal, so both ends are evaluated too, and the result is the best
    *evaluated* point. Ties go to the router (alpha = 1).
    """

    evaluations: int = field(default=10, metadata={"static": True})

    uses_router = True
    needs = frozenset({Need.NEIGHBORS})

    def __post_init__(self) -> None:
        if self.evaluations < 4:
            raise R2T2Error(f"line search of {self.evaluations} evaluations; two ends and two inner points make 4")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        own, mean = problem.start(), problem.coordinates(kernel_mean(problem))

        def between(alpha: Float[Array, ""]) -> Float[Array, "Z E"]:
            return alpha * own + (1 - alpha) * mean

        def value(alpha: Float[Array, ""]) -> Float[Array, ""]:
            return problem.value(between(alpha))

        high, low, left, right = first = jnp.array([1.0, 0.0, 1 - GOLDEN, GOLDEN], own.dtype)
        first_values = jax.lax.map(value, first)  # [4]

        def narrow(bracket: Bracket, _: None) -> tuple[Bracket, tuple[Float[Array, ""], Float[Array, ""]]]:
            """One step of the golden-section search: the smaller bracket, and the new point with its loss."""
            low, left, right, high, at_left, at_right = bracket
            leftward = at_left < at_right  # the valley lies between low and right, else between left and high
            low, high = jnp.where(leftward, low, left), jnp.where(leftward, right, high)
            new = jnp.where(leftward, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
            at_new = value(new)
            bracket = (
                low,
                jnp.where(leftward, new, right),
                jnp.where(leftward, left, new),
                high,
                jnp.where(leftward, at_new, at_right),
                jnp.where(leftward, at_left, at_new),
            )
            return bracket, (new, at_new)

        bracket = (low, left, right, high, first_values[2], first_values[3])
        _, (alphas, values) = jax.lax.scan(narrow, bracket, length=self.evaluations - 4)
        alphas, values = jnp.concatenate([first, alphas]), jnp.concatenate([first_values, values])  # [Q]
        best = running_argmin(values)
        path = jax.vmap(between)(alphas[best])  # [Q, Z, E]
        return SearchResult(
            path, values[best], {"alpha": alphas[best[-1]]}, self.evaluations * problem.forwards_per_eval
        )
