"""Descent that looks uphill first, trusts only sure answers and starts again when it has gone too far: SAR.

Axis letters: S steps, Z rows of coordinates, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.gradient_descent import OPTIMIZERS, Cosine, Schedule, check_steps
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

MEMORY = 0.9  # of the moving average of the loss

Carry = tuple[Float[Array, "Z E"], optax.OptState, Float[Array, ""]]


@register_pytree_dataclass
@dataclass(frozen=True)
class SharpnessAware:
    """r <- r - lr_t * direction(grad L(r')) with r' = r + rho grad L(r) / |grad L(r)|.

    SAR (Niu et al. 2023, "Towards stable test-time adaptation in dynamic wild world"; code: mr-eggplant/SAR). A step is
    taken where L(r) and L(r') both lie below `margin`, and the start is restored whenever the moving average of L(r')
    falls below `recovery`. Departures: the average runs over one sample's steps, not over a stream, so that a sample
    which is very sure to begin with keeps the router's weights. Two values and gradients a step.
    """

    schedule: Schedule = field(default_factory=Cosine)
    margin: float = 0.5545  # E0 in nats: 0.4 ln C for C = 4
    radius: float = 0.05  # rho
    recovery: float = 0.2  # nats
    optimizer: Literal["sgd", "adam"] = field(default="sgd", metadata={"static": True})
    steps: int = field(default=10, metadata={"static": True})

    uses_router = True

    def __post_init__(self) -> None:
        check_steps(self.optimizer, self.steps)
        if isinstance(self.radius, int | float) and self.radius < 0:
            raise R2T2Error(f"radius {self.radius} of the look uphill; it must not be negative")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        optimizer, start = OPTIMIZERS[self.optimizer](), problem.start()
        slope = jax.value_and_grad(problem.value)

        def step(carry: Carry, number: Int[Array, ""]) -> tuple[Carry, tuple[Float[Array, ""], Float[Array, "Z E"]]]:
            point, state, average = carry
            loss, gradient = slope(point)
            above = point + self.radius * gradient / (jnp.sqrt(jnp.square(gradient).sum()) + 1e-12)
            loss_above, gradient = slope(above)
            sure = (loss < self.margin) & (loss_above < self.margin)

            direction, moved = optimizer.update(gradient, state)
            rate = jnp.asarray(self.schedule(number, self.steps), point.dtype)
            new = problem.retract(point - rate * direction)
            point, state = jax.tree.map(lambda a, b: jnp.where(sure, a, b), (new, moved), (point, state))

            known = jnp.where(jnp.isnan(average), loss_above, MEMORY * average + (1 - MEMORY) * loss_above)
            average = jnp.where(sure, known, average)
            restored = average < self.recovery  # never while there is no average yet
            fresh = (start, optimizer.init(start))
            point, state = jax.tree.map(lambda a, b: jnp.where(restored, a, b), fresh, (point, state))
            return (point, state, average), (loss, point)

        first = (start, optimizer.init(start), jnp.full((), jnp.nan, start.dtype))
        _, (losses, points) = jax.lax.scan(step, first, jnp.arange(self.steps))
        path = jnp.concatenate([start[None], points])  # [S + 1, Z, E]
        return SearchResult(path, losses, {}, evaluations=4 * self.steps * problem.forwards)
