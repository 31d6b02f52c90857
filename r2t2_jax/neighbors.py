"""Which references make up a test sample's neighbourhood: k nearest, a ball, and two null selectors.

The nulls show what the choice of neighbours is worth. `RandomNeighbors` draws references blindly; `ShuffledNeighbors`
keeps the profile of kernel weights of the true neighbourhood and swaps the samples for unrelated ones.

Every selector pads to its K and treats each query by itself, so that a selection does not depend on the batch.

Axis letters: B test samples, K neighbours, N bank size, M embedding size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.checks import check_embeddings
from r2t2_jax.errors import R2T2Error
from r2t2_jax.index import ExactIndex
from r2t2_jax.pytrees import register_structure


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Neighbors:
    """Neighbourhoods of a batch. Masked entries are padding; their index is valid but means nothing."""

    indices: Int[Array, "*B K"]
    distances: Float[Array, "*B K"]
    dots: Float[Array, "*B K"]
    mask: Bool[Array, "*B K"]


def _check_k(k: int) -> None:
    if k < 1:
        raise R2T2Error(f"k={k} neighbours; it must be at least 1")


def _compare(
    index: ExactIndex, query: Float[Array, "M"], indices: Int[Array, "K"]
) -> tuple[Float[Array, "K"], Float[Array, "K"]]:
    """Distances and dot products of a query and chosen references.

    The distance is taken from the difference: sqrt(2 - 2 x.y) loses half the digits of a near neighbour.
    """
    chosen = index.embeddings[indices]  # [K, M]
    return jnp.sqrt(jnp.square(chosen - query[None]).sum(axis=-1)), (chosen * query[None]).sum(axis=-1)


@register_structure
@dataclass(frozen=True)
class NearestNeighbors:
    """The k nearest references (R2-T2, equation 9)."""

    k: int = field(default=5, metadata={"static": True})

    def __post_init__(self) -> None:
        _check_k(self.k)

    def __call__(self, index: ExactIndex, query: Float[Array, "M"], key: Key[Array, ""]) -> Neighbors:
        indices = index.nearest(query, self.k)
        return Neighbors(indices, *_compare(index, query, indices), jnp.ones(self.k, bool))


@register_structure
@dataclass(frozen=True)
class EpsilonBall:
    """References at an L2 distance of at most epsilon (R2-T2, equation 10), but no more than the k nearest."""

    epsilon: float
    k: int = field(default=5, metadata={"static": True})

    def __post_init__(self) -> None:
        _check_k(self.k)
        if isinstance(self.epsilon, int | float) and not (self.epsilon >= 0 and math.isfinite(self.epsilon)):
            raise R2T2Error(f"epsilon {self.epsilon} must not be negative; unit vectors lie at most 2 apart")

    def __call__(self, index: ExactIndex, query: Float[Array, "M"], key: Key[Array, ""]) -> Neighbors:
        indices = index.nearest(query, self.k)
        distances, dots = _compare(index, query, indices)
        return Neighbors(indices, distances, dots, distances <= self.epsilon)


@register_structure
@dataclass(frozen=True)
class RandomNeighbors:
    """A null: k different references drawn uniformly, weighted by their own (large) distances."""

    k: int = field(default=5, metadata={"static": True})

    def __post_init__(self) -> None:
        _check_k(self.k)

    def __call__(self, index: ExactIndex, query: Float[Array, "M"], key: Key[Array, ""]) -> Neighbors:
        indices = jax.lax.top_k(jax.random.uniform(key, (len(index),)), self.k)[1]
        return Neighbors(indices, *_compare(index, query, indices), jnp.ones(self.k, bool))


@register_structure
@dataclass(frozen=True)
class ShuffledNeighbors:
    """A null: the k nearest references, each replaced by an unrelated one.

    References stand in for one another along one fixed seeded cycle through the bank, so none stands for itself and the
    same reference always has the same stand-in. Distances and dot products stay those of the true neighbours, so the
    kernel weights are unchanged.
    """

    k: int = field(default=5, metadata={"static": True})
    seed: int = field(default=0, metadata={"static": True})

    def __post_init__(self) -> None:
        _check_k(self.k)

    def __call__(self, index: ExactIndex, query: Float[Array, "M"], key: Key[Array, ""]) -> Neighbors:
        cycle = jax.random.permutation(jax.random.key(self.seed), len(index))  # [N]
        stand_in = jnp.zeros_like(cycle).at[cycle].set(jnp.roll(cycle, 1))
        nearest = index.nearest(query, self.k)
        return Neighbors(stand_in[nearest], *_compare(index, query, nearest), jnp.ones(self.k, bool))


Selector = NearestNeighbors | EpsilonBall | RandomNeighbors | ShuffledNeighbors


def sample_keys(seed: int, numbers: Int[np.ndarray, "B"] | Int[Array, "B"]) -> Key[Array, "B"]:
    """One key a sample, from the seed and the sample's own number: the same in whatever batch it comes."""
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(jnp.asarray(numbers))


@jax.jit
def _select(selector: Selector, index: ExactIndex, queries: Float[Array, "B M"], keys: Key[Array, "B"]) -> Neighbors:
    # A matrix product over the batch may round a row differently with the number of rows; lax.map does not.
    return jax.lax.map(lambda sample: selector(index, *sample), (queries, keys))


def select(
    selector: Selector,
    index: ExactIndex,
    queries: Float[np.ndarray, "B M"] | Float[Array, "B M"],
    keys: Key[Array, "B"],
) -> Neighbors:
    """Neighbourhoods of a batch of queries, padded to the selector's K.

    Args:
        selector: how references are chosen.
        index: the bank's unit embeddings.
        queries: unit embeddings of the test samples.
        keys: one a sample, from `sample_keys`; read by the random selector alone.

    Raises:
        R2T2Error: k exceeds the bank, or a query is not a finite unit vector of the bank's size.
    """
    if selector.k > len(index):
        raise R2T2Error(
            f"k={selector.k} neighbours asked of a bank of {len(index)} references; lower k or collect more"
        )
    if queries.shape[-1] != index.embeddings.shape[1]:
        raise R2T2Error(
            f"query embeddings have size {queries.shape[-1]}, the bank's {index.embeddings.shape[1]}: use one embedder"
        )
    check_embeddings("query embeddings", queries)
    return _select(selector, index, jnp.asarray(queries), keys)
