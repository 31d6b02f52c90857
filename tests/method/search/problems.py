"""Problems with an explicit loss, for tests of searches."""

import dataclasses

import jax
import jax.numpy as jnp

from r2t2_jax.contract import Query, References
from r2t2_jax.method.search.problem import RoutingProblem, Search, SearchResult
from r2t2_jax.routing import RoutingSpec, UpdateSpace

SPEC = RoutingSpec(("a", "b", "c"), 2)
ROUTER_WEIGHTS = jnp.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])


def problem(loss=None, space=None, references=None, own=ROUTER_WEIGHTS, support=None) -> RoutingProblem:
    live = jnp.ones(own.shape, bool) if support is None else support
    space = UpdateSpace() if space is None else space
    given = {} if loss is None else {"loss": loss, "forwards_per_eval": 1}
    return RoutingProblem(SPEC, space, Query(None, own, live), references, **given)


def neighborhood(routing, weights) -> References:
    routing = jnp.asarray(routing)
    return References(routing, routing=routing, weights=jnp.asarray(weights))


def find(search: Search, case: RoutingProblem) -> SearchResult:
    """What the search finds, compiled as in use (and much sooner than op by op)."""

    def run(query, references):
        return search(dataclasses.replace(case, query=query, references=references), jax.random.key(0))

    return jax.jit(run)(case.query, case.references)
