"""The loss landscape over routing: losses of a sample and of its neighbors at the same routings.

To measure whether the neighbors' losses predict a sample's own loss, both are computed at routings spread over the
whole space: single experts, and random points of the product of simplices.

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
from r2t2_jax.runtime.batching import Rows, map_batches, take
from r2t2_jax.runtime.progress import progress_bar

CANDIDATES = 24
FAVOR = 30.0  # added to one expert's logit: it has all the weight of its group, other groups stay uniform
CONCENTRATION = 0.5  # of the Dirichlet distribution; below one, draws are also near vertices and edges


@dataclass(frozen=True)
class ProbeBatch:
    """A model, its bank and the queries whose losses are computed."""

    model: RoutedLoss
    params: Params
    bank: ReferenceBank
    queries: Query
    embeddings: Float[np.ndarray, "B M"] | Float[Array, "B M"]
    keys: Key[Array, "B"]
    batch_size: int


@dataclass(frozen=True)
class Probe:
    """Statistics of the losses at candidate routings, per sample; `Evidence` has the meaning of the first three.

    `best` is the routing with the lowest loss of the label among the candidates, the router's and the oracle's;
    `base_is_best` is true if the untouched model has a still lower loss.
    """

    near: Float[np.ndarray, "B"]
    random: Float[np.ndarray, "B"]
    router_rank: Float[np.ndarray, "B"]
    best: Float[np.ndarray, "B L E"]
    base_is_best: Bool[np.ndarray, "B"]


def probe_losses(
    batch: ProbeBatch, strategies: Mapping[str, Strategy], oracle: Float[Array, "B L E"], untouched: bool
) -> Probe:
    """Losses of samples, neighbors and random references at the same routings.

    Args:
        batch: the queries.
        strategies: `ngd` and `random_neighbors` select the references.
        oracle: the routing found by descent on the label.
        untouched: also compute the loss of the untouched model, which takes no routing.
    """
    candidates = candidate_routings(batch.model.spec, batch.queries.support)  # [B, G, L, E]
    all_routings = jnp.concatenate(  # [B, G + 2, L, E]
        [candidates, jnp.asarray(batch.queries.routing)[:, None], jnp.asarray(oracle)[:, None]], axis=1
    )
    index = batch.bank.index()
    references = {name: strategies[name] for name in ("ngd", "random_neighbors")}
    neighbors = {
        name: select(strategy.selector, index, batch.embeddings, batch.keys)
        for name, strategy in references.items()
        if strategy.selector
    }

    def losses(rows: Rows) -> dict[str, Any]:
        queries, points, routings = take((batch.queries, candidates, all_routings), rows)
        at = partial(losses_at, model=batch.model, params=batch.params, queries=queries)
        values = {"own": at(Oracle(), references=None, candidates=routings)}
        if untouched:
            values["base"] = at(Oracle(), references=None, candidates=None)[:, 0]
        for name, strategy in references.items():
            near = batch.bank.references(take(neighbors[name], rows), strategy.kernel)
            values[name] = at(Neighborhood(), references=near, candidates=points)
        return values

    with progress_bar(len(batch.keys), "losses at candidate routings") as progress:
        values, _ = map_batches(losses, len(batch.keys), batch.batch_size, progress)
    own = values["own"]
    best, router = own.argmin(axis=1), own[:, CANDIDATES]
    return Probe(
        near=rank_correlation(own[:, :CANDIDATES], values["ngd"]),
        random=rank_correlation(own[:, :CANDIDATES], values["random_neighbors"]),
        router_rank=(own[:, :CANDIDATES] < router[:, None]).mean(axis=1),
        best=np.asarray(all_routings)[np.arange(len(own)), best],
        base_is_best=values["base"] <= own.min(axis=1) if untouched else np.zeros(len(own), bool),
    )


def candidate_routings(
    spec: RoutingSpec, support: Bool[np.ndarray, "B L E"] | Bool[Array, "B L E"], seed: int = 0
) -> Float[Array, "B G L E"]:
    """The same routings for every sample, restricted to its support; every second draw is equal in all layers."""
    rng = np.random.default_rng(seed)
    layers, experts = spec.shape
    single = rng.permutation(experts)[: CANDIDATES // 2]
    vertices = np.broadcast_to(FAVOR * np.eye(experts)[single, None], (len(single), layers, experts))
    draws = rng.gamma(CONCENTRATION, size=(CANDIDATES - len(single), layers, experts))  # Dirichlet once normalized
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
    """The objective of every sample at its candidate routings; with `None` that of the untouched model, and G = 1."""
    if references is not None:
        references = replace(references, bank_routing=None)  # shared by all samples, and not read by any objective
    return _losses_at(objective, params, (queries, references, candidates), model=model)


@partial(jax.jit, static_argnames="model")
def _losses_at(
    objective: Objective,
    params: Params,
    samples: tuple[Query, References | None, Float[Array, "B G L E"] | None],
    *,
    model: RoutedLoss,
) -> Float[Array, "B G"]:
    def at_candidates(sample: tuple[Query, References | None, Float[Array, "G L E"] | None]) -> Float[Array, "G"]:
        query, references, candidates = sample
        if candidates is None:
            return objective(model, params, query, references, None)[None]
        return jax.lax.map(lambda weights: objective(model, params, query, references, Routing(weights)), candidates)

    return jax.lax.map(at_candidates, samples)


def rank_correlation(left: Float[np.ndarray, "B G"], right: Float[np.ndarray, "B G"]) -> Float[np.ndarray, "B"]:
    """Spearman's rank correlation of each row; ties get their mean rank; 0 if one side is constant."""
    left, right = map(_ranks, (left, right))
    left, right = (side - side.mean(axis=1, keepdims=True) for side in (left, right))
    scale = np.sqrt(np.square(left).sum(axis=1) * np.square(right).sum(axis=1))
    return np.where(scale > 0, (left * right).sum(axis=1) / np.where(scale > 0, scale, 1.0), 0.0)


def _ranks(values: Float[np.ndarray, "B G"]) -> Float[np.ndarray, "B G"]:
    """The rank of each value in its row, from 1 on; the mean rank of equal ones."""

    def rank(column: Float[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
        smaller, equal = values < column[:, None], values == column[:, None]
        return smaller.sum(axis=1) + (equal.sum(axis=1) + 1) / 2

    return np.stack([rank(column) for column in values.T], axis=1)
