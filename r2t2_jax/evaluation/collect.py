"""Build the reference bank: keep what the model answers correctly with its own routing (R2-T2, section 3).

Axis letters: B samples of a batch, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Array, Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import open_atlas
from r2t2_jax.bank.fingerprints import processing_fingerprint
from r2t2_jax.contract import Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batches import Rows, map_batches, progress_bar, take, threads_at_a_time
from r2t2_jax.evaluation.passes import generate_batch
from r2t2_jax.evaluation.questions import BATCH, encode_questions
from r2t2_jax.metrics import Metric

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
        records=[record_of(samples[i], predictions[i], scores[i]) for i in kept.tolist()],
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


def record_of(sample: Sample, prediction: str, score: float) -> dict[str, Any]:
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
