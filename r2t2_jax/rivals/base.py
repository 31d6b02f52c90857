"""Rivals that return answers instead of a routing: their protocol, inputs, and result.

Axis letters: B test samples, K neighbors, L routed layers, E experts, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Array, Float, Int, Key

from r2t2_jax.contract import Port, Query, References, Sample
from r2t2_jax.method.kernels import Gaussian, Kernel
from r2t2_jax.method.strategies import AtlasConfig
from r2t2_jax.retrieval.neighbors import NearestNeighbors, Selector


@dataclass(frozen=True)
class BaselineBatch:
    """A batch of test samples.

    Args:
        port: the model.
        samples, queries: the questions, raw and encoded; every leaf of `queries` has a leading axis B.
        references: the neighborhoods, from the baseline's selector and kernel.
        neighbors: the bank's records of each sample's neighbors, the nearest first; empty without a selector.
        keys: one per sample, for random draws.
    """

    port: Port
    samples: Sequence[Sample]
    queries: Query
    references: References
    neighbors: Sequence[Sequence[Mapping[str, Any]]]
    keys: Key[Array, "B"]


class Baseline(Protocol):
    """A method that returns answers instead of routing weights; a pytree.

    `selector`, `kernel` and `atlas` mean the same as for a `Strategy`. One that needs a special port may have
    `check_port(port)`, which refuses others before anything is evaluated. One that reads no references at all has
    `reads_references = False`, and runs without a bank.
    """

    @property
    def name(self) -> str: ...

    @property
    def selector(self) -> Selector | None: ...

    @property
    def kernel(self) -> Kernel | None: ...

    @property
    def atlas(self) -> AtlasConfig | None: ...

    def answer(self, batch: BaselineBatch) -> dict[str, Any]:
        """The answers of the batch, in the format that `baseline_result` returns.

        Raises:
            R2T2Error: the model, its port or the bank does not offer what the baseline needs.
        """
        ...


def reads_references(baseline: Baseline) -> bool:
    """Whether a baseline needs a bank."""
    return getattr(baseline, "reads_references", True)


@dataclass(frozen=True)
class NeighborBaseline:
    """Base of the baselines that read the records of the references answered correctly."""

    selector: Selector = field(default_factory=NearestNeighbors)
    kernel: Kernel = field(default_factory=Gaussian)

    @property
    def atlas(self) -> None:
        return None


def baseline_result(
    batch: BaselineBatch,
    evaluations: int,
    weights: Float[Array, "B L E"] | None = None,
    tokens: Int[Array, "B A"] | None = None,
    texts: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Answers of a batch in the form of a strategy's.

    Args:
        batch: the batch.
        evaluations: r-dependent forward passes per sample.
        weights: the routing weights of the answers; `None` for the router's own.
        tokens, texts: the answers, one or the other.
    """
    router = np.asarray(batch.queries.routing)
    used = router if weights is None else np.asarray(weights)
    n = len(router)
    answers = {"tokens": tokens} if texts is None else {"texts": np.array(texts, object)}
    return answers | {
        "weights": used,
        "path": np.stack([router, used], axis=1),  # [B, 2, L, E]
        "losses": np.zeros((n, 0), np.float32),
        "used_fallback": np.zeros(n, bool),
        "evaluations": np.full(n, evaluations),
    }
