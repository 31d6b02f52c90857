"""What a rival that gives answers rather than a routing is asked, and what it hands back.

Axis letters: B test samples, K neighbours, L routed layers, E experts, A answer tokens.
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
class Asked:
    """A batch of test samples.

    Args:
        port: the model.
        samples, queries: the questions, as they came and encoded; every leaf of `queries` has a leading axis B.
        references: what the baseline's selector and kernel found.
        neighbors: the records of each sample's neighbours in the bank, the nearest first; empty without a selector.
        keys: one a sample, for what is drawn.
    """

    port: Port
    samples: Sequence[Sample]
    queries: Query
    references: References
    neighbors: Sequence[Sequence[Mapping[str, Any]]]
    keys: Key[Array, "B"]


class Baseline(Protocol):
    """A pytree like a strategy; `selector`, `kernel` and `atlas` mean what they mean there."""

    @property
    def name(self) -> str: ...

    @property
    def selector(self) -> Selector | None: ...

    @property
    def kernel(self) -> Kernel | None: ...

    @property
    def atlas(self) -> AtlasConfig | None: ...

    def answer(self, asked: Asked) -> dict[str, Any]:
        """As `reply`.

        Raises:
            R2T2Error: the model, its port or the bank does not offer what the baseline needs.
        """
        ...


@dataclass(frozen=True)
class OfNeighbors:
    """What baselines have in common which read the records of the references answered correctly."""

    selector: Selector = field(default_factory=NearestNeighbors)
    kernel: Kernel = field(default_factory=Gaussian)

    @property
    def atlas(self) -> None:
        return None


def reply(
    asked: Asked,
    evaluations: int,
    weights: Float[Array, "B L E"] | None = None,
    tokens: Int[Array, "B A"] | None = None,
    texts: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Answers of a batch in the form in which a strategy's are kept.

    Args:
        asked: the batch.
        evaluations: r-dependent forward passes a case.
        weights: the routing weights they were given with; `None` for the router's own.
        tokens, texts: the answers, one or the other.
    """
    own = np.asarray(asked.queries.routing)
    used = own if weights is None else np.asarray(weights)
    n = len(own)
    answers = {"tokens": tokens} if texts is None else {"texts": np.array(texts, object)}
    return answers | {
        "weights": used,
        "path": np.stack([own, used], axis=1),  # [B, 2, L, E]
        "losses": np.zeros((n, 0), np.float32),
        "used_fallback": np.zeros(n, bool),
        "evaluations": np.full(n, evaluations),
    }
