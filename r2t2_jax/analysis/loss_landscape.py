"""What the loss landscape over routing looks like: losses of a sample and of its neighbours at the same routings.

Descent sees one path. To learn whether neighbours' losses tell anything about a sample's own loss, both are computed at
routings spread over the whole space: each of some experts alone, and draws from the product of simplices.

Axis letters: B test samples, G candidate routings, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Params, Query, References, RoutedLoss
from r2t2_jax.method.objectives import Neighborhood, Objective, Oracle
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.retrieval.neighbors import select
from r2t2_jax.routing import Routing, RoutingSpec, group_softmax
from r2t2_jax.runtime.batching import Rows, map_batches, progress_bar, take

CANDIDATES = 24
FAVOR = 30.0  # added to one expert's logit: of its group it alone has weight, another group stays uniform
CONCENTRATION = 0.5  # of the Dirichlet distribution: below one, draws come near vertices and edges too


@dataclass(frozen=True)
class ProbeBatch:
    """A model, its bank and the queries to be examined."""

    model: RoutedLoss
    params: Params
    bank: ReferenceBank
    queries: Query
    embeddings: Float[np.ndarray, "B M"] | Float[Array, "B M"]
    keys: Key[Array, "B"]
    batch_size: int


@dataclass(frozen=True)
class Probe:
    """What the losses at candidate routings tell of each sample.

    `best` is the routing with the least loss on the label: of the candidates, the router's and the oracle's;
    `base_is_best` tells that the untouched model has less still.
    """

    near: Float[np.ndarray, "B"]
    random: Float[np.ndarray, "B"]
    standing: Float[np.ndarray, "B"]
    best: Float[np.ndarray, "B L E"]
    base_is_best: Bool[np.ndarray, "B"]


def probe_losses(
    bench: ProbeBatch, strategies: Mapping[str, Strategy], oracle: Float[Array, "B L E"], untouched: bool
) -> Probe:
    """Losses of samples, neighbours and random references at the same routings.

    Args:
        bench: what to probe.
        strategies: `ngd` and `random_neighbors` say which references.
        oracle: the routing which descent on the label found.
        untouched: the model also takes no routing at all.
    """
    candidates = candidate_routings(bench.model.spec, bench.queries.support)  # [B, G, L, E]
    tried = jnp.concatenate(  # [B, G + 2, L, E]
        [candidates, jnp.asarray(bench.queries.routing)[:, None], jnp.asarray(oracle)[:, None]], axis=1
    )
    index = bench.bank.index()
    references = {name: strategies[name] for name in ("ngd", "random_neighbors")}
    neighbors = {
        name: select(one.selector, index, bench.embeddings, bench.keys)
        for name, one in references.items()
        if one.selector
    }

    def losses(rows: Rows) -> dict[str, Any]:
        queries, points, everything = take((bench.queries, candidates, tried), rows)
        at = partial(losses_at, model=bench.model, params=bench.params, queries=queries)
        found = {"own": at(Oracle(), references=None, candidates=everything)}
        if untouched:
            found["base"] = at(Oracle(), references=None, candidates=None)[:, 0]
        for name, one in references.items():
            near = bench.bank.references(take(neighbors[name], rows), one.kernel)
            found[name] = at(Neighborhood(), references=near, candidates=points)
        return found

    with progress_bar(len(bench.keys), "losses at candidate routings") as progress:
        found, _ = map_batches(losses, len(bench.keys), bench.batch_size, progress)
    own = found["own"]
    best, router = own.argmin(axis=1), own[:, CANDIDATES]
    return Probe(
        near=rank_correlation(own[:, :CANDIDATES], found["ngd"]),
        random=rank_correlation(own[:, :CANDIDATES], found["random_neighbors"]),
        standing=(own[:, :CANDIDATES] < router[:, None]).mean(axis=1),
        best=np.asarray(tried)[np.arange(len(own)), best],
        base_is_best=found["base"] <= own.min(axis=1) if untouched else np.zeros(len(own), bool),
    )


def candidate_routings(
    spec: RoutingSpec, support: Bool[np.ndarray, "B L E"] | Bool[Array, "B L E"], seed: int = 0
) -> Float[Array, "B G L E"]:
    """The same routings for every sample, up to its support; every second draw is the same in all layers."""
    rng = np.random.default_rng(seed)
    layers, experts = spec.shape
    alone = rng.permutation(experts)[: CANDIDATES // 2]
    vertices = np.broadcast_to(FAVOR * np.eye(experts)[alone, None], (len(alone), layers, experts))
    draws = rng.gamma(CONCENTRATION, size=(CANDIDATES - len(alone), layers, experts))  # normalised: Dirichlet
    draws[::2] = draws[::2, :1]
    logits = np.concatenate([vertices, np.log(np.maximum(draws, np.finfo(np.float32).tiny))]).astype(np.float32)
    return jax.vmap(partial(group_softmax, spec, jnp.asarray(logits)))(jnp.asarray(support)[:, None])


def losses_at(
    objective: Objective,
    model: RoutedLoss,
    params: Params,
    queries: Query,
    references: References | None,
    candidates: Float[Array, "B G L E"] | None,
) -> Float[Array, "B G"]:
    """The objective of every sample at its candidate routings; `None` is the untouched model, and G = 1."""
    if references is not None:
        references = replace(references, bank_routing=None)  # shared by all samples, and read by no objective
    return _losses_at(objective, params, (queries, references, candidates), model=model)


@partial(jax.jit, static_argnames="model")
def _losses_at(
    objective: Objective,
    params: Params,
    samples: tuple[Query, References | None, Float[Array, "B G L E"] | None],
    *,
    model: RoutedLoss,
) -> Float[Array, "B G"]:
    def one(sample: tuple[Query, References | None, Float[Array, "G L E"] | None]) -> Float[Array, "G"]:
        query, references, candidates = sample
        if candidates is None:
            return objective(model, params, query, references, None)[None]
        return jax.lax.map(lambda weights: objective(model, params, query, references, Routing(weights)), candidates)

    return jax.lax.map(one, samples)


def rank_correlation(left: Float[np.ndarray, "B G"], right: Float[np.ndarray, "B G"]) -> Float[np.ndarray, "B"]:
    """Spearman's correlation of each row, equal values sharing their mean rank; 0 where a side is constant."""
    left, right = (np.apply_along_axis(_ranks, 1, side) for side in (left, right))
    left, right = (side - side.mean(axis=1, keepdims=True) for side in (left, right))
    scale = np.sqrt(np.square(left).sum(axis=1) * np.square(right).sum(axis=1))
    return np.where(scale > 0, (left * right).sum(axis=1) / np.where(scale > 0, scale, 1.0), 0.0)


def _ranks(values: Float[np.ndarray, "G"]) -> Float[np.ndarray, "G"]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
