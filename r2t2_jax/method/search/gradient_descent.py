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
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


def _check(learning_rate: object) -> None:
    if isinstance(learning_rate, int | float) and not learning_rate >= 0:
        raise R2T2Error(f"learning rate {learning_rate} must not be negative")


@register_pytree_dataclass
@dataclass(frozen=True)
class Cosine:
    """lr_t = final + (initial - final) (1 + cos(pi t / S)) / 2 over t = 0 .. S - 1 (R2-T2, section 4.1).

    It equals `optax.cosine_decay_schedule(initial, S, final / initial)`, which an initial rate of zero and strict dtype
    promotion break.
    """

    learning_rate: float = 1e-2
    final_learning_rate: float = 1e-5

    def __post_init__(self) -> None:
        _check(self.learning_rate)
        _check(self.final_learning_rate)

    def __call__(self, step: Int[Array, ""], steps: int) -> Float[Array, ""]:
        falling = (1 + jnp.cos(jnp.pi * step / steps)) / 2
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * falling


@register_pytree_dataclass
@dataclass(frozen=True)
class StepDecay:
    """lr_t = initial * factor^floor(t / every). The paper names the schedule and gives no numbers."""

    learning_rate: float = 1e-2
    factor: float = 0.1
    every: int = 4

    def __post_init__(self) -> None:
        _check(self.learning_rate)
        if isinstance(self.every, int) and self.every < 1:
            raise R2T2Error(f"step decay every {self.every} steps; it must be at least 1")

    def __call__(self, step: Int[Array, ""], steps: int) -> Float[Array, ""]:
        return self.learning_rate * self.factor ** (step // self.every).astype(jnp.float32)


@register_pytree_dataclass
@dataclass(frozen=True)
class Fixed:
    """The same learning rate at every step."""

    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        _check(self.learning_rate)

    def __call__(self, step: Int[Array, ""], steps: int) -> Float[Array, ""]:
        return jnp.asarray(self.learning_rate)


Schedule = Cosine | StepDecay | Fixed

# Directions of optax; the learning rate multiplies them here, so that it stays a traced number.
OPTIMIZERS = {"sgd": optax.identity, "adam": optax.scale_by_adam}


def check_steps(optimizer: str, steps: int) -> None:
    """Refuse an unknown optimizer, and a descent without a step."""
    if optimizer not in OPTIMIZERS:
        raise R2T2Error(f"unknown optimizer {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    if steps < 1:
        raise R2T2Error(f"{steps} steps of descent; it must be at least 1")


@register_pytree_dataclass
@dataclass(frozen=True)
class GradientDescent:
    """r <- r - lr_t * direction(grad L(r)), brought back into the update space after every step (R2-T2, equation 1).

    Each step takes one value and gradient; the loss at the last point is not computed.
    """

    schedule: Schedule = field(default_factory=Cosine)
    optimizer: Literal["sgd", "adam"] = field(default="sgd", metadata={"static": True})
    steps: int = field(default=10, metadata={"static": True})

    uses_router = True

    def __post_init__(self) -> None:
        check_steps(self.optimizer, self.steps)

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
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
        return SearchResult(path, losses, {}, evaluations=2 * self.steps * problem.forwards)
