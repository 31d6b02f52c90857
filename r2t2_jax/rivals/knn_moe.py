"""kNN-MoE: a memory of good routing weights, retrieved by the vector that the gate reads.

Axis letters: N references, n samples, L routed layers, E experts, H size of the vector that the gate reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Features, Port, Query, support_of
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import normalized_gate_input
from r2t2_jax.method.kernels import Linear
from r2t2_jax.method.needs import Need
from r2t2_jax.method.presets import DescentSettings, NeighborhoodSettings
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.method.search.kernel_regression import mixture
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.method.strategies import Strategy, free_space, oracle
from r2t2_jax.retrieval import build_index
from r2t2_jax.retrieval.neighbors import NearestNeighbors, sample_keys
from r2t2_jax.retrieval.protocol import Index
from r2t2_jax.routing import UpdateSpace
from r2t2_jax.runtime.batching import Rows, map_batches
from r2t2_jax.runtime.progress import progress_bar
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class KnnMoeInterpolation:
    """r = r0 + share (r_hat - r0); the share is the mean kernel value of the neighbors, at most 1.

    If no reference is close, the router's weights are used unchanged. kNN-MoE (2026, arXiv 2601.02144): the aggregate
    similarity of the retrieved samples is the mixing coefficient.
    """

    uses_router = True
    needs = frozenset({Need.NEIGHBORS})

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        references = problem.references
        assert references is not None
        assert references.weights is not None
        return mixture(problem, jnp.clip(references.weights.mean(), 0.0, 1.0), evaluations=0)


def knn_moe(neighborhood: NeighborhoodSettings, descent: DescentSettings, space: UpdateSpace) -> Strategy:
    """Interpolation with the best weights of references with similar hidden states.

    Similarities are cosines, so that a share of the mixture means the same for every sample.
    """
    return Strategy(
        "knn_moe",
        NearestNeighbors(neighborhood.k),
        Linear(),
        search=KnnMoeInterpolation(),
        space=free_space(space),
        retrieval_key="hidden",
        memory_strategy=oracle(descent, space),
    )


BATCH = 50


@dataclass(frozen=True)
class HiddenStateMemory:
    """The references answered correctly, indexed by the vectors that the gate reads.

    `routing` holds the remembered weights of every reference, by the name of the strategy that uses them.
    """

    index: Index
    routing: Mapping[str, Float[np.ndarray, "N L E"]]


def open_memory(
    port: Port, correct: ReferenceBank, strategies: Mapping[str, Any], seed: int
) -> HiddenStateMemory | None:
    """The memory of those strategies that have one; `None` if there is none among these.

    Raises:
        R2T2Error: as `hidden_keys`.
    """
    memories = {
        name: method.memory_strategy
        for name, method in strategies.items()
        if isinstance(method, Strategy) and method.memory_strategy is not None
    }
    if not memories:
        return None
    features, _ = correct.samples(np.arange(len(correct)))
    index = build_index(hidden_keys(port, features))
    return HiddenStateMemory(
        index, {name: remembered(port, correct, memory, seed) for name, memory in memories.items()}
    )


def hidden_keys(port: Port, features: Features) -> Float[np.ndarray, "n H"]:
    """The vector that the gate reads for each sample, as unit vectors.

    Raises:
        R2T2Error: the model has no `gate_input`.
    """
    check_gate_input(port)
    return normalized_gate_input(port, features)


def check_gate_input(port: Port) -> None:
    """Raise `R2T2Error` if the model has no `gate_input`."""
    if not hasattr(port.model, "gate_input"):
        raise R2T2Error(
            f"{port.name} has no `gate_input`: knn_moe cannot retrieve neighbors by the vector that the gate reads"
        )


def remembered(port: Port, bank: ReferenceBank, strategy: Strategy, seed: int = 0) -> Float[np.ndarray, "N L E"]:
    """The weights of a strategy on the references, whose labels it may read; computed once for all questions."""
    n = len(bank)

    def reroute(rows: Rows) -> Float[Array, "b L E"]:
        features, answers = jax.tree.map(jnp.asarray, bank.samples(rows))
        routing = jnp.asarray(bank.routing[rows])
        query = Query(features, routing, support_of(port.model, features, routing), answers)
        return reroute_batch(strategy, port.model, port.params, query, None, sample_keys(seed, rows)).weights

    with progress_bar(n, f"{port.name}: routing of the references") as progress:
        weights, _ = map_batches(reroute, n, BATCH, progress)
    return weights
