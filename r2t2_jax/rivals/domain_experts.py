"""Boosts and masks of experts by the references near a question, without a search: expert_boost and expert_mask.

`r2t2 experts steer` and `mask` make steering files from recordings by the same two rules, for every token and layer.

Axis letters: K neighbors, N references, L routed layers, E experts, Z rows of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import Need
from r2t2_jax.method.presets import NeighborhoodSettings
from r2t2_jax.method.search.kernel_regression import kernel_mean
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.method.strategies import Strategy, kernel_of
from r2t2_jax.retrieval.neighbors import NearestNeighbors
from r2t2_jax.routing import UpdateSpace, by_group
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

MASKED = -1e9  # shift of the logits of an expert that must not have any weight


@dataclass(frozen=True)
class ExpertBoostSettings:
    """`expert_boost`: k neighbors stand for the task, `strength` is lambda, in logits."""

    k: int = 20
    strength: float = 1.0


@dataclass(frozen=True)
class ExpertMaskSettings:
    """`expert_mask`: k neighbors stand for the task, `count` experts of each layer and group are masked at most."""

    k: int = 20
    count: int = 1


def task_difference(problem: RoutingProblem) -> Float[Array, "L E"]:
    """Mean routing of the neighbors, weighted by the kernel, minus the mean over all references."""
    references = problem.references
    assert references is not None
    assert references.bank_routing is not None
    return kernel_mean(problem) - references.bank_routing.mean(axis=0)


def _shift(problem: RoutingProblem, shift: Float[Array, "L E"]) -> SearchResult:
    """The result that shifts the gates' logits; the weights come from the pass that gives the answer."""
    return SearchResult(problem.point(shift)[None], jnp.zeros(0), {}, evaluations=0)


@register_pytree_dataclass
@dataclass(frozen=True)
class ExpertBoost:
    """Adds lambda s to the gates' logits: s is the positive part of the task's difference over the largest entry.

    Routing Distraction (2026, arXiv 2604.08541) takes the top-k frequencies of about 20 texts of a domain minus those
    of generic texts, in the middle layers. Departures: the domain is the question's neighbors, generic are all
    references, and weights stand for frequencies, since a bank holds weights.
    """

    strength: float = 1.0

    uses_router, path_is_free = False, True
    needs = frozenset({Need.NEIGHBORS, Need.BANK_ROUTING})

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        positive = jnp.maximum(task_difference(problem), 0.0)
        largest = positive.max()
        return _shift(problem, self.strength * positive / jnp.where(largest > 0, largest, 1.0))


@register_pytree_dataclass
@dataclass(frozen=True)
class ExpertMask:
    """Masks the experts of each layer and group that the task uses least in comparison with all references.

    SteerMoE (ICLR 2026, arXiv 2509.09660) ranks experts by the difference of their activation between two prompts.
    Departures: the neighbors stand for the wanted behavior, all references for the other, weights for activations. An
    expert with a non-negative difference stays, and so does the last one that a sample has in a group.
    """

    count: int = field(default=1, metadata={"static": True})

    uses_router, path_is_free = False, True
    needs = frozenset({Need.NEIGHBORS, Need.BANK_ROUTING})

    def __post_init__(self) -> None:
        if self.count < 1:
            raise R2T2Error(f"expert_mask of {self.count} experts; it must be at least 1")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        def masked(difference: Float[Array, "L n"], support: Bool[Array, "L n"]) -> Bool[Array, "L n"]:
            rank: Int[Array, "L n"] = jnp.argsort(
                jnp.argsort(jnp.where(support, difference, jnp.inf), axis=-1), axis=-1
            )
            room = jnp.minimum(self.count, support.sum(axis=-1, keepdims=True) - 1)
            return support & (difference < 0) & (rank < room)

        mask = by_group(problem.spec, masked, task_difference(problem), problem.query.support)
        return _shift(problem, jnp.where(mask, MASKED, 0.0))


def _shift_space(space: UpdateSpace) -> UpdateSpace:
    """The shift space of the layers that move, without core experts."""
    return UpdateSpace("shift", space.tied, space.last_layers)


def expert_boost(neighborhood: NeighborhoodSettings, expert_boost: ExpertBoostSettings, space: UpdateSpace) -> Strategy:
    """Boost of the experts that the neighbors use more than all references do."""
    search, neighbors = ExpertBoost(expert_boost.strength), NearestNeighbors(expert_boost.k)
    return Strategy("expert_boost", neighbors, kernel_of(neighborhood), search=search, space=_shift_space(space))


def expert_mask(neighborhood: NeighborhoodSettings, expert_mask: ExpertMaskSettings, space: UpdateSpace) -> Strategy:
    """Mask of the experts that the neighbors use less than all references do."""
    search, neighbors = ExpertMask(expert_mask.count), NearestNeighbors(expert_mask.k)
    return Strategy("expert_mask", neighbors, kernel_of(neighborhood), search=search, space=_shift_space(space))
