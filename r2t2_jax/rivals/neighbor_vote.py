"""The answer of the majority of the neighbours: what retrieval knows without looking at the image.

Axis letters: B test samples, K neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from r2t2_jax.errors import R2T2Error
from r2t2_jax.rivals.base import Asked, OfNeighbors, reply
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class NeighborVote(OfNeighbors):
    """argmax_y sum_i K(x_i, x) [y_i = y] over the neighbours; of equals, the answer of the nearest.

    Nearest-neighbour classification (Cover & Hart 1967) with the kernel's weights (Dudani 1976). The model is not
    asked.
    """

    name: str = field(default="neighbor_vote", metadata={"static": True})

    def answer(self, asked: Asked) -> dict[str, Any]:
        """As `Baseline.answer`."""
        assert asked.references.weights is not None
        weights = np.asarray(asked.references.weights)
        texts = [vote(records, row) for records, row in zip(asked.neighbors, weights, strict=True)]
        return reply(asked, evaluations=0, texts=texts)


def vote(neighbors: Sequence[Mapping[str, Any]], weights: Float[np.ndarray, "K"]) -> str:
    """The heaviest answer; the nearest neighbour's where nobody has any weight.

    Raises:
        R2T2Error: the bank does not keep its answers as text.
    """
    if not all("answer" in record for record in neighbors):
        raise R2T2Error("neighbor_vote needs the answers of the references as text, and the bank's records have none")
    heard: dict[str, float] = defaultdict(float)
    for record, weight in zip(neighbors, weights.tolist(), strict=True):
        heard[str(record["answer"])] += weight
    return max(heard, key=lambda text: heard[text])  # the first of equals, and the nearest come first
