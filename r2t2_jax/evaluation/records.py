"""What a strategy did to the samples of a test set, and the rows that tell it.

Axis letters: B test samples, K neighbours, L routed layers, E experts, P points of a path, Q losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from r2t2_jax.contract import Sample

CORRECT = 0.5  # a score from here on counts as a correct answer


@dataclass(frozen=True)
class SampleResult:
    """What one strategy did to every sample of a test set.

    `neighbors`, their `similarities` and `kernel_weights` have K = 0 without any. `step_predictions` are the answers
    that the weights at each point of the path would give, `step_scores` what they are worth, and `own_losses` the test
    sample's own loss there, which no strategy but the oracle sees; P = 0 where nobody asked.
    """

    name: str
    predictions: list[str]
    scores: Float[np.ndarray, "B"]
    weights: Float[np.ndarray, "B L E"]
    path: Float[np.ndarray, "B P L E"]
    losses: Float[np.ndarray, "B Q"]
    neighbors: Int[np.ndarray, "B K"]
    similarities: Float[np.ndarray, "B K"]
    kernel_weights: Float[np.ndarray, "B K"]
    used_fallback: Bool[np.ndarray, "B"]
    evaluations: int
    seconds_per_sample: float
    step_predictions: list[list[str]]
    step_scores: Float[np.ndarray, "B P"]
    own_losses: Float[np.ndarray, "B P"]

    @property
    def right(self) -> Bool[np.ndarray, "B"]:
        """Which samples were answered correctly."""
        return self.scores >= CORRECT


def rows(
    outcome: SampleResult,
    model: str,
    samples: Sequence[Sample],
    router_weights: Float[np.ndarray, "B L E"],
    references: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One record for each sample. Arrays are flat: `path` is P times L times E numbers.

    Args:
        outcome: what a strategy did.
        model: name of the model.
        samples: to whom it was done.
        router_weights: the router's own weights for each.
        references: records of the bank.
    """
    return [
        {
            "model": model,
            "strategy": outcome.name,
            "id": sample.id,
            "category": sample.category,
            "question": sample.question,
            "answers": list(sample.answers),
            "prediction": outcome.predictions[i],
            "score": outcome.scores[i],
            "right": bool(outcome.right[i]),
            "router_weights": router_weights[i].ravel(),
            "weights": outcome.weights[i].ravel(),
            "path": outcome.path[i].ravel(),
            "losses": outcome.losses[i],
            "step_predictions": outcome.step_predictions[i],
            "step_right": outcome.step_scores[i] >= CORRECT,
            "own_losses": outcome.own_losses[i],
            "neighbors": [references[j]["id"] for j in outcome.neighbors[i]],
            "similarities": outcome.similarities[i],
            "kernel_weights": outcome.kernel_weights[i],
            "used_fallback": bool(outcome.used_fallback[i]),
            "evaluations": outcome.evaluations,
        }
        for i, sample in enumerate(samples)
    ]


@dataclass(frozen=True)
class Neighbor:
    """A reference of a test sample. `share` is its part of all kernel weights; texts are `None` where not stored."""

    id: str
    question: str | None
    answer: str | None
    share: float


def neighbors_of(records: Sequence[Mapping[str, Any]], weights: Float[np.ndarray, "K"]) -> tuple[Neighbor, ...]:
    """The neighbors of one sample from their bank records and kernel weights."""
    total = float(weights.sum())
    shares = (weights / total if total > 0 else np.zeros_like(weights)).tolist()
    return tuple(
        Neighbor(str(record.get("id", "")), record.get("question"), record.get("answer"), share)
        for record, share in zip(records, shares, strict=True)
    )
