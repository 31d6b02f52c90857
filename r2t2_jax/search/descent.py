"""Gradient descent on the routing weights: the paper's NGD when the loss is the neighbourhood's.

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
from r2t2_jax.pytrees import register_structure
from r2t2_jax.search.problem import Found, Problem
from r2t2_jax.search.schedules import Cosine, Schedule

# Directions of optax; the learning rate multiplies them here, so that it stays a traced number.
OPTIMIZERS = {"sgd": optax.identity, "adam": optax.scale_by_adam}


def check_steps(optimizer: str, steps: int) -> None:
    """Refuse an unknown optimizer, and a descent without a step."""
    if optimizer not in OPTIMIZERS:
        raise R2T2Error(f"unknown optimizer {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    if steps < 1:
        raise R2T2Error(f"{steps} steps of descent; it must be at least 1")


@register_structure
@dataclass(frozen=True)
class Descent:
    """r <- r - lr_t * direction(grad L(r)), brought back into the update space after every step (R2-T2, equation 1).

    Each step takes one value and gradient; the loss at the last point is not computed.
    """

    schedule: Schedule = field(default_factory=Cosine)
    optimizer: Literal["sgd", "adam"] = field(default="sgd", metadata={"static": True})
    steps: int = field(default=10, metadata={"static": True})

    uses_router = True

    def __post_init__(self) -> None:
        check_steps(self.optimizer, self.steps)

    def __call__(self, problem: Problem, key: Key[Array, ""]) -> Found:
        optimizer = OPTIMIZERS[self.optimizer]()
        start = problem.start()

        def step(
            carry: tuple[Float[Array, "Z E"], optax.OptState], number: Int[Array, ""]
        ) -> tuple[tuple[Float[Array, "Z E"], optax.OptState], tuple[Float[Array, ""], Float[Array, "Z E"]]]:
            point, state = carry
            loss, gradient = jax.value_and_grad(problem.value)(point)
            direction, state = optimizer.update(gradient, state)
            rate = jnp.asarray(self.schedule(number, self.steps), point.dtype)
            point = problem.retract(point - rate * direction)
            return (point, state), (loss, point)

        _, (losses, points) = jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(self.steps))
        path = jnp.concatenate([start[None], points])  # [S + 1, Z, E]
        return Found(path, losses, {}, evaluations=2 * self.steps * problem.forwards)
