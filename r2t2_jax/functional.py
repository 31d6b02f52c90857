"""Re-routing of any JAX loss function, from arrays, without port or files.

Axis letters: B test samples, K neighbors, N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Answer, Features, LossModel, Params, Query, Rerouted, RoutedLoss, support_of
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import strategy as named_strategy
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.neighbors import sample_keys, select
from r2t2_jax.routing import Routing, RoutingSpec
from r2t2_jax.runtime.checks import check_embeddings, check_finite, check_routing, check_rows
from r2t2_jax.runtime.pytrees import tree_bytes

Loss = Callable[[Params, Features, Float[Array, "L E"], Answer], Float[Array, ""]]


def reroute(
    model: RoutedLoss | Loss,
    params: Params,
    bank: ReferenceBank,
    features: Features,
    routing: Float[Array, "B L E"] | Float[np.ndarray, "B L E"],
    embeddings: Float[Array, "B M"] | Float[np.ndarray, "B M"],
    *,
    strategy: Strategy | str = "ngd",
    spec: RoutingSpec | None = None,
    support: Bool[Array, "B L E"] | Bool[np.ndarray, "B L E"] | None = None,
    answers: Answer | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
    allow_leakage: bool = False,
) -> Rerouted:
    """Re-route a model given as a function: no port, no files.

    Args:
        model: a `RoutedModel`, or a function `answer_loss(params, features, weights, answer) -> scalar` of one sample
            with `weights` [L, E]. Any loss is possible.
        params: every array of the model.
        bank: samples the model answers correctly.
        features, routing, embeddings: of the B test samples, as in the bank: the inputs of the function, the
            router's own weights, and unit vectors whose distances measure similarity.
        strategy: a name (with the preset `paper`) or a `Strategy`.
        spec: names and structure of the routing weights, for a function; default: one group of numbered experts.
        support: the entries of r that may be non-zero for each sample; default: the model's or the spec's.
        answers: labels of the test samples, which only the oracle reads.
        seed: of random draws; those of sample i depend on the seed and i only.
        mesh: devices over which the samples are split, along the axis `data`.
        allow_leakage: accept test samples that are references: of equal features and embedding.

    Returns:
        `Rerouted` with a leading axis B on every leaf; `weights` [B, L, E] are the new routing weights. All neighbors'
        features [B, K, ...] are in memory at once.

    Raises:
        R2T2Error: an array holds NaN, has the wrong shape or weight outside its support, k exceeds the bank, the loss
            is no scalar, the strategy needs what the model does not offer, or a test sample is a reference.
    """
    strategy = named_strategy(strategy) if isinstance(strategy, str) else strategy
    model = as_model(model, bank, spec)
    check_routing("routing", model.spec, routing, support)
    mask = support_of(model, features, routing) if support is None else np.broadcast_to(support, np.shape(routing))
    queries = Query(*jax.tree.map(jnp.asarray, (features, routing, mask, answers)))
    _check(model, params, bank, queries, embeddings)
    if not allow_leakage:
        _check_leakage(bank, features, embeddings)

    keys = sample_keys(seed, np.arange(len(routing)))
    neighbors = None
    if strategy.selector is not None:
        size = tree_bytes(features) // len(routing) if strategy.reads_neighbor_features else 0
        neighbors = select(strategy.selector, ExactIndex.build(bank.embeddings), embeddings, keys, size)
    references = bank.references(neighbors, strategy.kernel, strategy.reads_neighbor_features)
    return reroute_batch(strategy, model, params, queries, references, keys, mesh)


def as_model(model: RoutedLoss | Loss, bank: ReferenceBank, spec: RoutingSpec | None) -> RoutedLoss:
    """The model itself, or a `LossModel` of a loss with `spec`; the default is one group of experts as in the bank."""
    if hasattr(model, "answer_loss"):
        return cast(RoutedLoss, model)
    _, layers, experts = bank.routing.shape
    numbered = RoutingSpec(tuple(f"expert {e}" for e in range(experts)), layers)
    return LossModel(model, spec or numbered)


def _check_leakage(bank: ReferenceBank, features: Features, embeddings: Array | np.ndarray) -> None:
    """Refuse test samples whose features and embedding are, bit for bit, those of a reference."""
    references = set(_row_bytes((bank.features, bank.embeddings), len(bank)))
    rows = _row_bytes((features, embeddings), len(embeddings))
    leaked = [i for i, row in enumerate(rows) if row in references]
    if leaked:
        raise R2T2Error(
            f"{len(leaked)} of {len(rows)} test samples are also references in the bank, first row {leaked[0]}: the "
            "bank holds their answers; leave them out, or pass allow_leakage=True"
        )


def _row_bytes(tree: Any, rows: int) -> list[bytes]:
    """A digest of each row of all leaves; numbers are compared as float32."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    flat = [np.asarray(leaf, np.float32).reshape(rows, -1) for leaf in leaves]
    return [hashlib.sha256(b"".join(leaf[i].tobytes() for leaf in flat)).digest() for i in range(rows)]


def _check(
    model: RoutedLoss, params: Params, bank: ReferenceBank, queries: Query, embeddings: Array | np.ndarray
) -> None:
    """Refuse arrays of inconsistent shapes before compilation."""
    check_routing("reference routing", model.spec, bank.routing)
    count = len(queries.routing)
    for name, tree in {"features": queries.features, "answers": queries.answer}.items():
        check_rows(name, tree, count)
        check_finite(name, tree)
    check_embeddings("query embeddings", embeddings)
    check_rows("query embeddings", embeddings, count)

    def first_loss() -> Array:
        features, answer = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), (bank.features, bank.answers))
        return model.answer_loss(params, features, Routing(jnp.asarray(bank.routing[0])), answer)

    loss = jax.eval_shape(first_loss)
    if getattr(loss, "shape", None) != ():
        raise R2T2Error(f"answer_loss returned {loss}; it must return one number, the loss of one sample")
