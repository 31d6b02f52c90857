"""Gradient descent on the routing weights: the paper's NGD if the loss is the neighborhood's.

Axis letters: S steps, Z rows of coordinates, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import NOTHING
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


def _check_rate(learning_rate: object) -> None:
    if isinstance(learning_rate, int | float) and not learning_rate >= 0:
        raise R2T2Error(f"learning rate {learning_rate} must not be negative")


# A schedule is called as `schedule(steps)` and returns an `optax.Schedule` of the step count. Rates are traced, so a
# sweep over them does not recompile; optax's decay runs from 1, so that a first rate of zero is allowed.


@register_pytree_dataclass
@dataclass(frozen=True)
class Cosine:
    """`optax.cosine_decay_schedule` from `learning_rate` to `final_learning_rate` (R2-T2, section 4.1).

    lr_t = final + (initial - final) (1 + cos(pi t / S)) / 2 over t = 0 .. S - 1.
    """

    learning_rate: float = 1e-2
    final_learning_rate: float = 1e-5

    def __post_init__(self) -> None:
        _check_rate(self.learning_rate)
        _check_rate(self.final_learning_rate)

    def __call__(self, steps: int) -> optax.Schedule:
        decay = optax.cosine_decay_schedule(1.0, steps)
        return lambda step: self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * decay(step)


@register_pytree_dataclass
@dataclass(frozen=True)
class StepDecay:
    """`optax.exponential_decay` as a staircase: lr_t = initial * factor^floor(t / every).

    The paper names the schedule and gives no numbers.
    """

    learning_rate: float = 1e-2
    factor: float = field(default=0.1, metadata={"static": True})
    every: int = field(default=4, metadata={"static": True})

    def __post_init__(self) -> None:
        _check_rate(self.learning_rate)
        if not self.factor > 0:
            raise R2T2Error(f"step decay by a factor of {self.factor}; it must be positive")
        if self.every < 1:
            raise R2T2Error(f"step decay every {self.every} steps; it must be at least 1")

    def __call__(self, steps: int) -> optax.Schedule:
        decay = optax.exponential_decay(1.0, self.every, self.factor, staircase=True)
        return lambda step: self.learning_rate * decay(step)


@register_pytree_dataclass
@dataclass(frozen=True)
class Fixed:
    """`optax.constant_schedule`: the same learning rate at every step."""

    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        _check_rate(self.learning_rate)

    def __call__(self, steps: int) -> optax.Schedule:
        return optax.constant_schedule(self.learning_rate)


Schedule = Cosine | StepDecay | Fixed

# Directions of optax; the learning rate multiplies them here, so that it stays a traced number.
OPTIMIZERS = {"sgd": optax.identity, "adam": optax.scale_by_adam}


def check_steps(optimizer: str, steps: int) -> None:
    """Refuse an unknown optimizer, and a descent without a step."""
    if optimizer not in OPTIMIZERS:
        raise R2T2Error(f"unknown optimizer {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    if steps < 1:
        raise R2T2Error(f"{steps} steps of descent; it must be at least 1")


def learning_rates(schedule: Schedule, steps: int) -> Float[Array, "S"]:
    """The learning rate of every step, in float32."""
    rate = schedule(steps)
    return jax.vmap(lambda step: jnp.asarray(rate(step), jnp.float32))(jnp.arange(steps, dtype=jnp.float32))


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
    needs = NOTHING

    def __post_init__(self) -> None:
        check_steps(self.optimizer, self.steps)

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        optimizer = OPTIMIZERS[self.optimizer]()
        start = problem.start()

        def step(
            carry: tuple[Float[Array, "Z E"], optax.OptState], rate: Float[Array, ""]
        ) -> tuple[tuple[Float[Array, "Z E"], optax.OptState], tuple[Float[Array, ""], Float[Array, "Z E"]]]:
            point, state = carry
            loss, gradient = jax.value_and_grad(problem.value)(point)
            direction, state = optimizer.update(gradient, state)
            point = problem.retract(point - rate.astype(point.dtype) * direction)
            return (point, state), (loss, point)

        rates = learning_rates(self.schedule, self.steps)
        _, (losses, points) = jax.lax.scan(step, (start, optimizer.init(start)), rates)
        path = jnp.concatenate([start[None], points])  # [S + 1, Z, E]
        return SearchResult(path, losses, {}, evaluations=2 * self.steps * problem.forwards_per_eval)
