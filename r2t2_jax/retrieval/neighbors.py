"""Selectors of a test sample's neighborhood: k nearest, a ball, and two controls.

The controls measure the value of retrieval. `RandomNeighbors` draws references at random; `ShuffledNeighbors` keeps the
kernel weights of the true neighborhood and replaces the samples with unrelated ones.

Every selector pads to its K and treats each query separately, so a selection does not depend on the batch. The nearest
references come from the index's own search on the host; with an `ExactIndex` on an accelerator from one traced program.

Axis letters: B test samples, K neighbors, N bank size, M embedding size.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.protocol import NOISE, Index, check_search
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

BALL_BYTES = 4 << 30  # of the features in one ball without a cap
SMALLEST_BALL = 16  # padded size of small balls


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Neighbors:
    """Neighborhoods of a batch. Masked entries are padding with an arbitrary valid index."""

    indices: Int[Array, "*B K"]
    distances: Float[Array, "*B K"]
    dots: Float[Array, "*B K"]
    mask: Bool[Array, "*B K"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Choice:
    """The references of a neighborhood, and those whose distances to the query determine their weights."""

    indices: Int[Array, "K"]
    compared: Int[Array, "K"]


def _check_k(k: int) -> None:
    if k < 1:
        raise R2T2Error(f"k={k} neighbors; it must be at least 1")


@register_pytree_dataclass
@dataclass(frozen=True)
class NearestNeighbors:
    """The k nearest references (R2-T2, equation 9)."""

    k: int = field(default=5, metadata={"static": True})

    def __post_init__(self) -> None:
        _check_k(self.k)

    def choose(self, nearest: Int[Array, "K"], n: int, key: Key[Array, ""]) -> Choice:
        return Choice(nearest, nearest)

    def keep(self, distances: Float[Array, "K"]) -> Bool[Array, "K"]:
        return jnp.ones(self.k, bool)


@register_pytree_dataclass
@dataclass(frozen=True)
class EpsilonBall:
    """References at an L2 distance of at most epsilon (R2-T2, equation 10): all, or with `k` at most the k nearest."""

    epsilon: float
    k: int | None = field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.k is not None:
            _check_k(self.k)
        if isinstance(self.epsilon, int | float) and not (self.epsilon >= 0 and math.isfinite(self.epsilon)):
            raise R2T2Error(f"epsilon {self.epsilon} must not be negative; unit vectors lie at most 2 apart")

    def choose(self, nearest: Int[Array, "K"], n: int, key: Key[Array, ""]) -> Choice:
        return Choice(nearest, nearest)

    def keep(self, distances: Float[Array, "K"]) -> Bool[Array, "K"]:
        return distances <= self.epsilon


@register_pytree_dataclass
@dataclass(frozen=True)
class RandomNeighbors:
    """Control: k different references drawn uniformly, weighted by their own (large) distances."""

    k: int = field(default=5, metadata={"static": True})

    def __post_init__(self) -> None:
        _check_k(self.k)

    def choose(self, nearest: Int[Array, "K"], n: int, key: Key[Array, ""]) -> Choice:
        drawn = jax.lax.top_k(jax.random.uniform(key, (n,)), self.k)[1]
        return Choice(drawn, drawn)

    def keep(self, distances: Float[Array, "K"]) -> Bool[Array, "K"]:
        return jnp.ones(self.k, bool)


@register_pytree_dataclass
@dataclass(frozen=True)
class ShuffledNeighbors:
    """Control: the k nearest references, each replaced by an unrelated one.

    The replacement follows one fixed seeded cycle through the bank, so no reference replaces itself and the same
    reference always has the same replacement. Distances and dot products stay those of the true neighbors, so the
    kernel weights are unchanged.
    """

    k: int = field(default=5, metadata={"static": True})
    seed: int = field(default=0, metadata={"static": True})

    def __post_init__(self) -> None:
        _check_k(self.k)

    def choose(self, nearest: Int[Array, "K"], n: int, key: Key[Array, ""]) -> Choice:
        cycle = jax.random.permutation(jax.random.key(self.seed), n)  # [N]
        replacement = jnp.zeros_like(cycle).at[cycle].set(jnp.roll(cycle, 1))
        return Choice(replacement[nearest], nearest)

    def keep(self, distances: Float[Array, "K"]) -> Bool[Array, "K"]:
        return jnp.ones(self.k, bool)


Selector = NearestNeighbors | EpsilonBall | RandomNeighbors | ShuffledNeighbors


def sample_keys(seed: int, numbers: Int[np.ndarray, "B"] | Int[Array, "B"]) -> Key[Array, "B"]:
    """One key per sample, from the seed and the sample's number, so that it does not depend on the batch."""
    return _sample_keys(numbers, seed=int(seed))


@partial(jax.jit, static_argnames="seed")
def _sample_keys(numbers: Int[Array, "B"], *, seed: int) -> Key[Array, "B"]:
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(numbers)


def _compare(selector: Selector, choice: Choice, query: Float[Array, "M"], compared: Float[Array, "K M"]) -> Neighbors:
    """Distances and dot products of a query and its neighbors, in float32.

    The distance is computed from the difference: sqrt(2 - 2 x.y) loses half the digits of a near neighbor. Distances
    within the noise of the embeddings, at least the rounding of their dtype, are zero.
    """
    inexact = [vectors.dtype for vectors in (compared, query) if jnp.issubdtype(vectors.dtype, jnp.inexact)]
    noise = max(NOISE, *(float(jnp.finfo(dtype).eps) for dtype in inexact), 0.0)
    compared, query = compared.astype(jnp.float32), query.astype(jnp.float32)
    distances = jnp.sqrt(jnp.square(compared - query[None]).sum(axis=-1))
    distances = jnp.where(distances > noise, distances, 0.0)
    return Neighbors(choice.indices, distances, (compared * query[None]).sum(axis=-1), selector.keep(distances))


# A matrix product over the batch may round a row differently with the number of rows; lax.map does not.
@jax.jit
def _select(selector: Selector, index: ExactIndex, queries: Float[Array, "B M"], keys: Key[Array, "B"]) -> Neighbors:
    size = selector.k or min(SMALLEST_BALL, len(index))  # `select` gives every ball a size

    def one(sample: tuple[Array, Array]) -> Neighbors:
        query, key = sample
        choice = selector.choose(index.nearest(query, size), len(index), key)
        return _compare(selector, choice, query, index.embeddings[choice.compared])

    return jax.lax.map(one, (queries, keys))


@partial(jax.jit, static_argnames="n")
def _choose(selector: Selector, nearest: Int[Array, "B K"], keys: Key[Array, "B"], *, n: int) -> Choice:
    return jax.lax.map(lambda sample: selector.choose(sample[0], n, sample[1]), (nearest, keys))


@jax.jit
def _compare_all(
    selector: Selector, choices: Choice, queries: Float[Array, "B M"], compared: Float[Array, "B K M"]
) -> Neighbors:
    return jax.lax.map(lambda sample: _compare(selector, *sample), (choices, queries, compared))


def select(
    selector: Selector,
    index: Index,
    queries: Float[np.ndarray, "B M"] | Float[Array, "B M"],
    keys: Key[Array, "B"],
    feature_bytes: int = 0,
) -> Neighbors:
    """Neighborhoods of a batch of queries, padded to the selector's K.

    A ball without a cap is padded to a power of two that holds the largest ball of the batch. The features of one ball
    take at most `BALL_BYTES`; a warning says if the nearest references only were kept for this reason.

    Args:
        selector: how references are chosen.
        index: the bank's unit embeddings.
        queries: unit embeddings of the test samples.
        keys: one per sample, from `sample_keys`; only the random selector reads them.
        feature_bytes: of what is read of a neighbor, for balls without a cap.

    Raises:
        R2T2Error: k exceeds the bank, or a query is not a finite unit vector of the bank's size.
    """
    if isinstance(selector, EpsilonBall) and selector.k is None:
        return _select_ball(selector, index, queries, keys, feature_bytes)
    assert selector.k is not None
    check_search(index, queries, selector.k)
    if isinstance(index, ExactIndex) and not index.on_host:
        return _select(selector, index, queries, keys)
    nearest: Any = index.search(np.asarray(queries), selector.k).indices.astype(np.int32)
    drawn = isinstance(selector, RandomNeighbors | ShuffledNeighbors)
    choices = _choose(selector, nearest, keys, n=len(index)) if drawn else Choice(nearest, nearest)
    compared = np.asarray(index.embeddings)[np.asarray(choices.compared)]  # a large bank stays on the host
    return _compare_all(selector, choices, queries, compared)


def _select_ball(
    ball: EpsilonBall,
    index: Index,
    queries: Float[np.ndarray, "B M"] | Float[Array, "B M"],
    keys: Key[Array, "B"],
    feature_bytes: int,
) -> Neighbors:
    """The whole balls of a batch, or the nearest references of each that the memory bound allows."""
    largest = len(index)
    if feature_bytes:
        largest = max(1, min(largest, BALL_BYTES // feature_bytes))
    k = min(SMALLEST_BALL, largest)
    while True:
        neighbors = select(replace(ball, k=k), index, queries, keys)
        if k == largest or not neighbors.mask[:, -1].any():
            break
        k = min(2 * k, largest)
    if k < len(index) and neighbors.mask[:, -1].any():
        warnings.warn(
            f"some balls of radius {ball.epsilon:g} hold more than {k} references: the {k} nearest are used, since the "
            f"features of a ball may take {BALL_BYTES / 2**30:.3g} GiB; choose a smaller epsilon, or set "
            "neighborhood.max_in_ball",
            stacklevel=3,
        )
    return neighbors
