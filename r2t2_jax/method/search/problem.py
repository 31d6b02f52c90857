"""The problem of a search, and its result.

Axis letters: L routed layers, E experts, Z = L or 1 (tied) rows of coordinates, P points of a path, Q losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.contract import Query, References
from r2t2_jax.method.needs import Need
from r2t2_jax.routing import Routing, RoutingSpec, UpdateSpace


class NoObjective:
    """The loss of a strategy without an objective: calling it is an error."""

    def __call__(self, routing: Routing) -> Float[Array, ""]:
        raise TypeError("this search needs a loss and its strategy has no objective")


@dataclass(frozen=True)
class RoutingProblem:
    """One test sample: the loss to minimize over r, and the space in which r may move.

    `forwards_per_eval` is the number of r-dependent forward passes of one value of the loss. With `passes_support`
    replaced weights come with the sample's support, outside of which they are zero. With `mixed_points` the points of
    the loss atlas are mixed with the router's own weights.
    """

    spec: RoutingSpec
    space: UpdateSpace
    query: Query
    references: References | None
    loss: Callable[[Routing], Float[Array, ""]] = field(default_factory=NoObjective)
    forwards_per_eval: int = 0
    passes_support: bool = False
    mixed_points: bool = False

    def start(self) -> Float[Array, "Z E"]:
        """Coordinates of the router's own weights."""
        return self.coordinates(self.query.routing)

    def coordinates(self, weights: Float[Array, "L E"]) -> Float[Array, "Z E"]:
        """Coordinates of any weights, brought onto the sample's support."""
        return self.space.start(self.spec, weights, self.query.support)

    def point(self, values: Float[Array, "L E"]) -> Float[Array, "Z E"]:
        """Coordinates of a point of the loss atlas: of routing weights, or of a shift in the shift space."""
        if self.space.kind != "shift":
            return self.coordinates(values)
        return self.retract(values.mean(axis=0, keepdims=True) if self.space.tied else values)

    def retract(self, coordinates: Float[Array, "Z E"]) -> Float[Array, "Z E"]:
        return self.space.retract(self.spec, coordinates, self.query.support)

    def routing(self, coordinates: Float[Array, "Z E"]) -> Routing:
        """The routing of these coordinates; layers that do not move have the start's."""
        routing = self.space.routing(self.spec, coordinates, self.query.support)
        if self.passes_support and routing.mode == "replace":
            routing = replace(routing, support=self.query.support)
        if self.space.last_layers is None:
            return routing
        start = self.space.routing(self.spec, self.start(), self.query.support)
        moving = self.space.moving(self.spec.num_layers)[:, None]  # [L, 1]
        return replace(routing, values=jnp.where(moving, routing.values, start.values))

    def value(self, coordinates: Float[Array, "Z E"]) -> Float[Array, ""]:
        """The loss at these coordinates."""
        return self.loss(self.routing(coordinates))


class SearchResult(NamedTuple):
    """The result of a search, in coordinates; `rerouting` turns it into `Rerouted`.

    `path[0]` is the start, `path[-1]` the result, `losses[s]` the loss at `path[s]` as far as the search computed it.
    `evaluations` counts the search only, without the router's own pass and the final answer. `used_fallback` is true if
    no reference had a positive weight and the search stayed at its start.
    """

    path: Float[Array, "P Z E"]
    losses: Float[Array, "Q"]
    info: dict[str, Array]
    evaluations: int
    used_fallback: Bool[Array, ""] | bool = False


def running_argmin(values: Float[Array, "Q"]) -> Int[Array, "Q"]:
    """For each s, the index of the lowest of the values 0 .. s: the first of equal ones, never a NaN."""
    count = values.shape[0]
    prefix = jnp.tri(count, dtype=bool)  # [Q, Q], row s covers the points up to s
    return jnp.argmin(jnp.where(prefix & ~jnp.isnan(values)[None], values[None], jnp.inf), axis=1)


class Search(Protocol):
    """An algorithm that moves the routing weights of one test sample, called as `search(problem, key)`.

    `uses_router` is true if it starts from the router's own weights and therefore takes the router's pass. `needs` is
    what it reads of the references and the query. With `path_is_free = True` it returns a single point, whose weights
    the pass of the final answer gives.
    """

    @property
    def uses_router(self) -> bool: ...

    @property
    def needs(self) -> frozenset[Need]: ...

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult: ...
