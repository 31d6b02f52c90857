"""Learning rates over the steps of a descent. Every number is traced: a sweep over them does not recompile."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r2t2_jax.errors import R2T2Error
from r2t2_jax.pytrees import register_structure


def _check(learning_rate: object) -> None:
    if isinstance(learning_rate, int | float) and not learning_rate >= 0:
        raise R2T2Error(f"learning rate {learning_rate} must not be negative")


@register_structure
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


@register_structure
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


@register_structure
@dataclass(frozen=True)
class Fixed:
    """The same learning rate at every step."""

    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        _check(self.learning_rate)

    def __call__(self, step: Int[Array, ""], steps: int) -> Float[Array, ""]:
        return jnp.asarray(self.learning_rate)


Schedule = Cosine | StepDecay | Fixed
