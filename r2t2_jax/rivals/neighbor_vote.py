"""Neighbor vote: the answer of the kernel-weighted majority of the neighbors, without the model.

Axis letters: B test samples, K neighbors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import NeighborhoodSettings
from r2t2_jax.method.strategies import kernel_of
from r2t2_jax.retrieval.neighbors import NearestNeighbors
from r2t2_jax.rivals.base import BaselineBatch, NeighborBaseline, baseline_result
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class NeighborVote(NeighborBaseline):
    """argmax_y sum_i K(x_i, x) [y_i = y] over the neighbors; the nearest neighbor's of equal answers.

    Nearest-neighbor classification (Cover & Hart 1967) with the kernel's weights (Dudani 1976). The model is not used.
    """

    name: str = field(default="neighbor_vote", metadata={"static": True})

    def answer(self, batch: BaselineBatch) -> dict[str, Any]:
        """As `Baseline.answer`."""
        assert batch.references.weights is not None
        weights = np.asarray(batch.references.weights)
        texts = [vote(records, row) for records, row in zip(batch.neighbors, weights, strict=True)]
        return baseline_result(batch, evaluations=0, texts=texts)


def neighbor_vote(neighborhood: NeighborhoodSettings) -> NeighborVote:
    """Control: majority vote of the neighbors' answers, without running the model."""
    return NeighborVote(selector=NearestNeighbors(neighborhood.k), kernel=kernel_of(neighborhood))


def vote(neighbors: Sequence[Mapping[str, Any]], weights: Float[np.ndarray, "K"]) -> str:
    """The answer of the largest total weight; the nearest neighbor's if no neighbor has any weight.

    Raises:
        R2T2Error: the bank does not store its answers as text.
    """
    if not all("answer" in record for record in neighbors):
        raise R2T2Error("neighbor_vote needs the answers of the references as text, and the bank's records have none")
    totals: dict[str, float] = defaultdict(float)
    for record, weight in zip(neighbors, weights.tolist(), strict=True):
        totals[str(record["answer"])] += weight
    return max(totals, key=lambda text: totals[text])  # the first of equal ones, and the nearest come first
