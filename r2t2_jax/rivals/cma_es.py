"""CMA-ES: search with an adapted covariance matrix, without gradients.

Axis letters: G generations, C candidates per generation, P parents, n coordinates (Z rows times E experts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import NOTHING
from r2t2_jax.method.objectives import SelfConfidence
from r2t2_jax.method.presets import GenerationSettings
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult, running_argmin
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.routing import UpdateSpace
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

FLOOR = 1e-20  # of an eigenvalue, which rounding may push below zero


@dataclass(frozen=True)
class CmaEsSettings:
    """Initial step size sigma, in units of a logit, and the number of generations."""

    sigma: float = 1.0
    generations: int = 10


class Rates(NamedTuple):
    """The constants of the algorithm for n coordinates and C candidates (Hansen 2016, arXiv 1604.00772, table 1)."""

    weights: Float[np.ndarray, "P"]  # of the parents, the best first
    mu_eff: float  # variance-effective number of parents
    c_sigma: float  # of the step path
    damping: float  # d_sigma
    shape_path: float  # c_c
    c_1: float  # of the rank-one update
    c_mu: float  # of the rank-mu update
    length: float  # expected length of a standard normal vector


def rates(n: int, candidates: int) -> Rates:
    """The constants, with positive weights only: the better half of the candidates are parents."""
    parents = candidates // 2
    raw = math.log((candidates + 1) / 2) - np.log(np.arange(1, parents + 1))
    weights = raw / raw.sum()
    mu_eff = float(1 / np.square(weights).sum())
    c_sigma = (mu_eff + 2) / (n + mu_eff + 5)
    c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)
    return Rates(
        weights=weights,
        mu_eff=mu_eff,
        c_sigma=c_sigma,
        damping=1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma,
        shape_path=(4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n),
        c_1=c_1,
        c_mu=min(1 - c_1, 2 * (0.25 + mu_eff + 1 / mu_eff - 2) / ((n + 2) ** 2 + mu_eff)),
        length=math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2)),
    )


class CmaState(NamedTuple):
    """The normal distribution of the candidates, and the evolution paths."""

    mean: Float[Array, "n"]
    sigma: Float[Array, ""]
    covariance: Float[Array, "n n"]
    step_path: Float[Array, "n"]
    shape_path: Float[Array, "n"]


def next_state(
    state: CmaState, steps: Float[Array, "C n"], values: Float[Array, "C"], number: Int[Array, ""], constants: Rates
) -> CmaState:
    """The state after generation `number` (from 0), whose candidates lay at mean + sigma * steps."""
    n, parents = state.mean.shape[0], len(constants.weights)
    order = jnp.argsort(jnp.where(jnp.isnan(values), jnp.inf, values), stable=True)[:parents]
    weights = jnp.asarray(constants.weights, steps.dtype)
    best = steps[order]  # [P, n]
    mean_step = (weights[:, None] * best).sum(axis=0)

    whitened = _power(state.covariance, -0.5) @ mean_step
    keep, add = 1 - constants.c_sigma, math.sqrt(constants.c_sigma * (2 - constants.c_sigma) * constants.mu_eff)
    step_path = keep * state.step_path + add * whitened
    length = jnp.sqrt(jnp.square(step_path).sum())
    grown = jnp.sqrt(1 - keep ** (2 * (number + 1).astype(steps.dtype)))
    moving = length / grown < (1.4 + 2 / (n + 1)) * constants.length  # h_sigma

    keep, add = (
        1 - constants.shape_path,
        math.sqrt(constants.shape_path * (2 - constants.shape_path) * constants.mu_eff),
    )
    shape_path = keep * state.shape_path + jnp.where(moving, add, 0.0) * mean_step
    stalled = jnp.where(moving, 0.0, constants.shape_path * (2 - constants.shape_path))
    covariance = (
        (1 - constants.c_1 - constants.c_mu + constants.c_1 * stalled) * state.covariance
        + constants.c_1 * jnp.outer(shape_path, shape_path)
        + constants.c_mu * (best.T * weights[None]) @ best
    )
    growth = jnp.exp(constants.c_sigma / constants.damping * (length / constants.length - 1))
    return CmaState(state.mean + state.sigma * mean_step, state.sigma * growth, covariance, step_path, shape_path)


def _power(covariance: Float[Array, "n n"], power: float) -> Float[Array, "n n"]:
    values, vectors = jnp.linalg.eigh(covariance)
    return (vectors * jnp.maximum(values, FLOOR)[None] ** power) @ vectors.T


@register_pytree_dataclass
@dataclass(frozen=True)
class CmaEs:
    """The best point that CMA-ES evaluates (Hansen 2016, arXiv 1604.00772), the start among them.

    There are 4 + floor(3 ln n) candidates per generation, the source's default. Evo-Merging (Akiba et al. 2024)
    searches the weights of a merged model this way; here the coordinates are the routing's.
    """

    sigma: float = 1.0
    generations: int = field(default=10, metadata={"static": True})

    uses_router = True
    needs = NOTHING

    def __post_init__(self) -> None:
        if self.generations < 1:
            raise R2T2Error(f"{self.generations} generations of CMA-ES; it must be at least 1")
        if isinstance(self.sigma, int | float) and not self.sigma > 0:
            raise R2T2Error(f"CMA-ES sigma {self.sigma}; it must be positive")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        start = problem.start()
        n = start.size
        candidates = 4 + int(3 * math.log(n))
        constants = rates(n, candidates)

        def generation(
            state: CmaState, step: tuple[Int[Array, ""], Key[Array, ""]]
        ) -> tuple[CmaState, tuple[Array, Array]]:
            number, key = step
            drawn = jax.random.normal(key, (candidates, n), start.dtype)
            steps = drawn @ _power(state.covariance, 0.5)  # [C, n]; the root is symmetric
            points = (state.mean[None] + state.sigma * steps).reshape(candidates, *start.shape)
            points = jax.vmap(problem.retract)(points)  # [C, Z, E]
            values = jax.lax.map(problem.value, points)
            best = running_argmin(values)[-1]
            return next_state(state, steps, values, number, constants), (points[best], values[best])

        first = CmaState(
            start.ravel(),
            jnp.asarray(self.sigma, start.dtype),
            jnp.eye(n, dtype=start.dtype),
            jnp.zeros(n, start.dtype),
            jnp.zeros(n, start.dtype),
        )
        each = (jnp.arange(self.generations), jax.random.split(key, self.generations))
        _, (points, values) = jax.lax.scan(generation, first, each)
        points = jnp.concatenate([start[None], points])  # [G + 1, Z, E]
        values = jnp.concatenate([problem.value(start)[None], values])
        best = running_argmin(values)
        return SearchResult(
            points[best], values[best], {}, (1 + self.generations * candidates) * problem.forwards_per_eval
        )


def cma_es(generation: GenerationSettings, cma_es: CmaEsSettings, space: UpdateSpace) -> Strategy:
    """Evolution strategy that maximizes the confidence in the model's own answer."""
    return Strategy(
        "cma_es",
        objective=SelfConfidence(generation.max_new_tokens),
        search=CmaEs(cma_es.sigma, cma_es.generations),
        space=replace(space, kind="logit"),
    )
