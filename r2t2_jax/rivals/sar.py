"""SAR: sharpness-aware descent on reliable samples with model recovery.

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
from r2t2_jax.method.presets import DescentSettings, GenerationSettings
from r2t2_jax.method.search.gradient_descent import OPTIMIZERS, Cosine, Schedule, check_steps, learning_rates
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.method.strategies import Strategy, schedule_of
from r2t2_jax.rivals.entropy import EntropySettings
from r2t2_jax.rivals.tent import Entropy
from r2t2_jax.routing import UpdateSpace
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

MEMORY = 0.9  # of the moving average of the loss

Carry = tuple[Float[Array, "Z E"], optax.OptState, Float[Array, ""]]


@dataclass(frozen=True)
class SarSettings:
    """Radius rho of the ascent step, and the moving average of the loss, in nats, below which the start is restored."""

    radius: float = 0.05
    recovery: float = 0.2


@register_pytree_dataclass
@dataclass(frozen=True)
class SharpnessAware:
    """r <- r - lr_t * direction(grad L(r')) with r' = r + rho grad L(r) / |grad L(r)|.

    SAR (Niu et al. 2023, "Towards stable test-time adaptation in dynamic wild world"; code: mr-eggplant/SAR). A
    step is taken if L(r) and L(r') are both below `margin`, and the start is restored if the moving average of
    L(r') falls below `recovery`. Departure: the average is over one sample's steps, not over a stream, so a sample
    of very low entropy keeps the router's weights. Two values and gradients per step.
    """

    schedule: Schedule = field(default_factory=Cosine)
    margin: float = EntropySettings.margin  # E0 in nats
    radius: float = 0.05  # rho
    recovery: float = 0.2  # nats
    optimizer: Literal["sgd", "adam"] = field(default="sgd", metadata={"static": True})
    steps: int = field(default=10, metadata={"static": True})

    uses_router = True
    needs = NOTHING

    def __post_init__(self) -> None:
        check_steps(self.optimizer, self.steps)
        if isinstance(self.radius, int | float) and self.radius < 0:
            raise R2T2Error(f"radius {self.radius} of the ascent step; it must not be negative")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        optimizer, start = OPTIMIZERS[self.optimizer](), problem.start()
        slope = jax.value_and_grad(problem.value)

        def step(carry: Carry, rate: Float[Array, ""]) -> tuple[Carry, tuple[Float[Array, ""], Float[Array, "Z E"]]]:
            point, state, average = carry
            loss, gradient = slope(point)
            above = point + self.radius * gradient / (jnp.sqrt(jnp.square(gradient).sum()) + 1e-12)
            loss_above, gradient = slope(above)
            reliable = (loss < self.margin) & (loss_above < self.margin)

            direction, moved = optimizer.update(gradient, state)
            new = problem.retract(point - rate.astype(point.dtype) * direction)
            point, state = jax.tree.map(lambda a, b: jnp.where(reliable, a, b), (new, moved), (point, state))

            updated = jnp.where(jnp.isnan(average), loss_above, MEMORY * average + (1 - MEMORY) * loss_above)
            average = jnp.where(reliable, updated, average)
            restored = average < self.recovery  # never before the first average
            fresh = (start, optimizer.init(start))
            point, state = jax.tree.map(lambda a, b: jnp.where(restored, a, b), fresh, (point, state))
            return (point, state, average), (loss, point)

        first = (start, optimizer.init(start), jnp.full((), jnp.nan, start.dtype))
        _, (losses, points) = jax.lax.scan(step, first, learning_rates(self.schedule, self.steps))
        path = jnp.concatenate([start[None], points])  # [S + 1, Z, E]
        return SearchResult(path, losses, {}, evaluations=4 * self.steps * problem.forwards_per_eval)


def sar(
    descent: DescentSettings,
    generation: GenerationSettings,
    entropy: EntropySettings,
    sar: SarSettings,
    space: UpdateSpace,
) -> Strategy:
    """As tent, with sharpness-aware steps on reliable samples."""
    search = SharpnessAware(
        schedule_of(descent), entropy.margin, sar.radius, sar.recovery, descent.optimizer, descent.steps
    )
    return Strategy("sar", objective=Entropy(generation.max_new_tokens), search=search, space=space)
