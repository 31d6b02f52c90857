"""What a strategy did to the samples of a test set, and the rows that tell it.

Axis letters: B test samples, K neighbours, L routed layers, E experts, P points of a path, Q losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import open_atlas
from r2t2_jax.bank.manifest import processing_fingerprint
from r2t2_jax.contract import Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.encode import BATCH, encode_questions
from r2t2_jax.method.forward import generate_batch
from r2t2_jax.metrics import Metric
from r2t2_jax.runtime.batching import Rows, map_batches, progress_bar, take, threads_at_a_time

CORRECT = 0.5  # a score from here on counts as a correct answer


def collect_bank(
    port: Port, samples: Sequence[Sample], metric: Metric, batch_size: int = BATCH, keep_wrong: bool = False
) -> ReferenceBank:
    """A bank of the samples which `port` answers correctly, in memory; with `keep_wrong` of all, flagged.

    Raises:
        R2T2Error: it answers none of them.
    """
    questions = encode_questions(port, samples, batch_size)
    features = questions.queries.features

    def answer(rows: Rows) -> Int[Array, "B A"]:
        return generate_batch(port, take(features, rows), None)

    with progress_bar(len(samples), f"{port.name}: answer references") as progress:
        tokens, _ = map_batches(answer, len(samples), batch_size, progress, threads_at_a_time())
    predictions = port.processor.decode(tokens)
    scores = [metric(prediction, sample) for prediction, sample in zip(predictions, samples, strict=True)]
    correct = np.array(scores) >= CORRECT
    kept = np.arange(len(samples)) if keep_wrong else np.flatnonzero(correct)
    if not correct.any():
        raise R2T2Error(f"{port.name} answered none of {len(samples)} reference questions correctly: there is no bank")
    query = questions.queries
    return ReferenceBank(
        features=take(features, kept),
        answers=take(query.answer, kept),
        routing=query.routing[kept],
        embeddings=questions.embeddings[kept],
        records=[make_record(samples[i], predictions[i], scores[i]) for i in kept.tolist()],
        model_fingerprint=port.fingerprint,
        embedder_fingerprint=port.embedder.fingerprint,
        processing_fingerprint=processing_fingerprint(port),
        correct=correct if keep_wrong else None,
        spec=port.model.spec,
    )


def with_shipped_atlas(bank: ReferenceBank, port: Port) -> ReferenceBank:
    """The port's own references, answered correctly or not, with the loss atlas that ships with it, if one does.

    Raises:
        R2T2Error: the atlas cannot be read, or has no row for a reference.
    """
    if port.atlas is None:
        return bank
    return replace(bank, atlas=open_atlas(port.atlas).of([str(record["id"]) for record in bank.records]))


def make_record(sample: Sample, prediction: str, score: float) -> dict[str, Any]:
    """What a bank tells of a reference (`bank/records.py`), less where it came from."""
    return {
        "id": sample.id,
        "split": sample.split,
        "category": sample.category,
        "question": sample.question,
        "options": list(sample.options),
        "style": sample.style,
        "answer": sample.answers[0],
        "answers": list(sample.answers),
        "experts": list(sample.experts),
        "prediction": prediction,
        "score": float(score),
        "correct": score >= CORRECT,
    }


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
