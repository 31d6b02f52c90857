"""What a search is given, and what it hands back.

Axis letters: L routed layers, E experts, Z = L or 1 (tied) rows of coordinates, P points of a path, Q losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.contract import Query, References
from r2t2_jax.routing import Routing, RoutingSpec, UpdateSpace


class NoObjective:
    """Stands where a strategy has no objective."""

    def __call__(self, routing: Routing) -> Float[Array, ""]:
        raise TypeError("this search needs a loss and its strategy has no objective")


@dataclass(frozen=True)
class RoutingProblem:
    """One test sample: the loss to lower over r, and the space in which r may move.

    `forwards` is what one value of the loss costs, in evaluations.
    """

    spec: RoutingSpec
    space: UpdateSpace
    query: Query
    references: References | None
    loss: Callable[[Routing], Float[Array, ""]] = field(default_factory=NoObjective)
    forwards: int = 0

    def start(self) -> Float[Array, "Z E"]:
        """Coordinates of the router's own weights."""
        return self.coordinates(self.query.routing)

    def coordinates(self, weights: Float[Array, "L E"]) -> Float[Array, "Z E"]:
        """Coordinates of any weights, brought onto the sample's support."""
        return self.space.start(self.spec, weights, self.query.support)

    def retract(self, coordinates: Float[Array, "Z E"]) -> Float[Array, "Z E"]:
        return self.space.retract(self.spec, coordinates, self.query.support)

    def routing(self, coordinates: Float[Array, "Z E"]) -> Routing:
        return self.space.routing(self.spec, coordinates, self.query.support)

    def value(self, coordinates: Float[Array, "Z E"]) -> Float[Array, ""]:
        """The loss at these coordinates."""
        return self.loss(self.routing(coordinates))


class SearchResult(NamedTuple):
    """What a search found, in coordinates; `rerouting` turns it into `Rerouted`.

    `path[0]` is where it started, `path[-1]` is what it settled on, `losses[s]` is the loss at `path[s]` as far as the
    search computed it. `evaluations` counts the search alone, without the router's own pass and the final answer.
    `used_fallback` tells that the search had nothing to go by and stayed where it started.
    """

    path: Float[Array, "P Z E"]
    losses: Float[Array, "Q"]
    info: dict[str, Array]
    evaluations: int
    used_fallback: Bool[Array, ""] | bool = False


def running_argmin(values: Float[Array, "Q"]) -> Int[Array, "Q"]:
    """For each s, which of the points 0 .. s has the lowest value; the first among equals, NaN never."""
    count = values.shape[0]
    seen = jnp.tri(count, dtype=bool)  # [Q, Q], row s sees the points up to s
    return jnp.argmin(jnp.where(seen & ~jnp.isnan(values)[None], values[None], jnp.inf), axis=1)


class Search(Protocol):
    """How the routing weights of one test sample move, called as `search(problem, key)`.

    `uses_router` is true if it starts from the router's own weights, and so needs the router's pass.
    """

    @property
    def uses_router(self) -> bool: ...

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult: ...
