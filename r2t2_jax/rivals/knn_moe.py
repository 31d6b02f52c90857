"""A memory of good routings, found by what the gate reads: kNN-MoE.

Axis letters: N references, n samples, L routed layers, E experts, H size of what the gate reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Features, Port, Query
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import normalized_gate_input
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.retrieval import build_index
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.retrieval.protocol import Index
from r2t2_jax.runtime.batching import Rows, map_batches, progress_bar

BATCH = 50


@dataclass(frozen=True)
class HiddenStateMemory:
    """References answered correctly, by what the gate reads of them.

    `routing` is, by the strategy's name, the weights that are remembered of each.
    """

    index: Index
    routing: Mapping[str, Float[np.ndarray, "N L E"]]


def open_memory(
    port: Port, correct: ReferenceBank, strategies: Mapping[str, Any], seed: int
) -> HiddenStateMemory | None:
    """What the strategies with a memory read, if there is one among these.

    Raises:
        R2T2Error: as `hidden_keys`.
    """
    memories = {
        name: one.memory_strategy
        for name, one in strategies.items()
        if isinstance(one, Strategy) and one.memory_strategy is not None
    }
    if not memories:
        return None
    features, _ = correct.samples(np.arange(len(correct)))
    index = build_index(hidden_keys(port, features))
    return HiddenStateMemory(
        index, {name: remembered(port, correct, memory, seed) for name, memory in memories.items()}
    )


def hidden_keys(port: Port, features: Features) -> Float[np.ndarray, "n H"]:
    """What the gate reads of each sample, as unit vectors.

    Raises:
        R2T2Error: the model does not tell (`gate_input`).
    """
    if not hasattr(port.model, "gate_input"):
        raise R2T2Error(f"{port.name} does not tell what its gate reads (gate_input): neighbours cannot be found by it")
    return normalized_gate_input(port, features)


def remembered(port: Port, bank: ReferenceBank, strategy: Strategy, seed: int = 0) -> Float[np.ndarray, "N L E"]:
    """The weights that a strategy finds for the references, whose labels it may read. Found once, for all questions."""
    n, live = len(bank), port.model.spec.support_mask()

    def find(rows: Rows) -> Float[Array, "b L E"]:
        features, answers = jax.tree.map(jnp.asarray, bank.samples(rows))
        routing = jnp.asarray(bank.routing[rows])
        query = Query(features, routing, jnp.broadcast_to(live, routing.shape), answers)
        return reroute_batch(strategy, port.model, port.params, query, None, sample_keys(seed, rows)).weights

    with progress_bar(n, f"{port.name}: routing of the references") as progress:
        found, _ = map_batches(find, n, BATCH, progress)
    return found
