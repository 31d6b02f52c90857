"""Results of an evaluation, and the rows in which runs and banks store them.

Axis letters: B test samples, K neighbors, L routed layers, E experts, P points of a path, Q losses, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from r2t2_jax.contract import Sample

CORRECT = 0.5  # smallest score of a correct answer
FEW = 0.05  # share of correct answers below which a wrong metric or prompt is likely
SHOWN, SHOWN_LETTERS = 5, 60  # answers in a warning about few correct ones, and their length


def hardly_any(correct: int, answered: int) -> bool:
    """Whether so few answers are correct that metric or prompt are probably wrong."""
    return correct < FEW * answered


def low_score_warning(name: str, metric: str, correct: int, answered: int, wrong: Sequence[tuple[str, str]]) -> str:
    """One line that says how few answers to a question set are correct, with some of them.

    Args:
        name: of the set.
        metric: its name.
        correct, answered: numbers of answers.
        wrong: wrong answers with the right ones.
    """

    def shown(text: str) -> str:
        return repr(text if len(text) <= SHOWN_LETTERS else f"{text[: SHOWN_LETTERS - 3]}...")

    pairs = "; ".join(f"{shown(prediction)} for {shown(answer)}" for prediction, answer in wrong[:SHOWN])
    return (
        f"{name}: only {correct:,} of {answered:,} answers are correct by the metric {metric}; check metric and "
        f"prompt. Answers and right answers: {pairs}"
    )


@dataclass(frozen=True)
class BatchResult:
    """The results of one strategy on a batch or on a whole test set.

    Args:
        name: of the strategy.
        samples: the B test samples.
        router_weights: the router's own weights.
        predictions, scores: the answers, and the metric's value of each; NaN where no metric was given.
        weights: the routing weights with which the answers were generated.
        path, losses: the weights after every step of the search, and the objective there as far as it was computed.
        neighbors: rows of the bank, with their `similarities` and `kernel_weights`; K = 0 without neighbors.
        used_fallback: no neighbor had any weight, and the router's own weights were kept.
        evaluations: forward passes per sample that depend on the routing.
        seconds_per_sample: measured.
        step_predictions, step_scores: the answers generated at each point of the path; P = 0 if they were not wanted.
        own_losses: the loss of each sample's own label at each point of the path, for reports only.
        num_neighbors: of each sample; the further ones of a ball without a cap are padding. `None` for K.
    """

    name: str
    samples: Sequence[Sample]
    router_weights: Float[np.ndarray, "B L E"]
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
    num_neighbors: Int[np.ndarray, "B"] | None = None

    def neighbors_of(self, i: int) -> slice:
        """The columns of `neighbors`, `similarities` and `kernel_weights` that sample i has."""
        return slice(None if self.num_neighbors is None else int(self.num_neighbors[i]))

    @property
    def right(self) -> Bool[np.ndarray, "B"]:
        """True for samples that were answered correctly."""
        return self.scores >= CORRECT


def result_rows(result: BatchResult, model: str, references: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per sample. Arrays are flat float32: `path` is P times L times E numbers.

    In x64 mode JAX computes some arrays in float64; a column has one dtype.

    Args:
        result: of a strategy.
        model: title under which the rows are reported.
        references: records of the bank.
    """
    return [
        {
            "model": model,
            "strategy": result.name,
            "id": sample.id,
            "category": sample.category,
            "question": sample.question,
            "answers": list(sample.answers),
            "prediction": result.predictions[i],
            "score": result.scores[i],
            "right": bool(result.right[i]),
            "router_weights": _flat(result.router_weights[i]),
            "weights": _flat(result.weights[i]),
            "path": _flat(result.path[i]),
            "losses": _flat(result.losses[i]),
            "step_predictions": result.step_predictions[i],
            "step_right": result.step_scores[i] >= CORRECT,
            "own_losses": _flat(result.own_losses[i]),
            "neighbors": [references[j]["id"] for j in result.neighbors[i, result.neighbors_of(i)]],
            "similarities": _flat(result.similarities[i, result.neighbors_of(i)]),
            "kernel_weights": _flat(result.kernel_weights[i, result.neighbors_of(i)]),
            "used_fallback": bool(result.used_fallback[i]),
            "evaluations": result.evaluations,
        }
        for i, sample in enumerate(result.samples)
    ]


def reference_rows(model: str, records: Sequence[Mapping[str, Any]], routing: np.ndarray) -> list[dict[str, Any]]:
    """One row per reference: its record and its routing [L, E], flat."""
    return [
        {"model": model, **record, "experts": list(record["experts"]), "routing": _flat(routing[i])}
        for i, record in enumerate(records)
    ]


def _flat(array: np.ndarray) -> Float[np.ndarray, "n"]:
    return np.asarray(array, np.float32).ravel()


@dataclass(frozen=True)
class Neighbor:
    """A reference of a test sample. `share` is its fraction of the kernel weights; missing texts are `None`."""

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
