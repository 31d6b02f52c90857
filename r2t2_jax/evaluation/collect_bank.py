"""Collects references: encodes, answers and scores samples with the untouched model, in memory or batch by batch.

Axis letters: n references of a batch, M embedding size, L routed layers, E experts, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import open_atlas
from r2t2_jax.bank.manifest import image_digest, processing_fingerprint
from r2t2_jax.contract import Answer, Features, Inputs, Port, Sample, default_vmap_size
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.encode import BATCH, prepare_questions
from r2t2_jax.evaluation.records import CORRECT
from r2t2_jax.method.forward import condition_batch, encode_batch, generate_batch
from r2t2_jax.metrics import Metric
from r2t2_jax.runtime.batching import Rows, compute_ahead, run_batch, take, threads_at_a_time
from r2t2_jax.runtime.checks import SHARES, UNIT_TOLERANCE, check_weights
from r2t2_jax.runtime.progress import progress_bar


@dataclass(frozen=True)
class ReferenceBatch:
    """References of one batch; `features` is `None` if they are not kept."""

    records: list[dict[str, Any]]
    features: Features | None
    routing: Float[np.ndarray, "n L E"]
    embeddings: Float[np.ndarray, "n M"]

    @property
    def correct(self) -> Bool[np.ndarray, "n"]:
        """Whether the model answers each reference correctly."""
        return np.array([record["correct"] for record in self.records])


def collect_references(
    port: Port,
    samples: Sequence[Sample],
    inputs: Inputs,
    embeddings: Float[np.ndarray, "n M"],
    metric: Metric,
    size: int,
    keep_features: bool = True,
    answers: Answer | None = None,
) -> ReferenceBatch:
    """Encode, answer and score the samples of one batch with the untouched model.

    Args:
        port: the model.
        samples: the n samples, each with at least one answer.
        inputs: of the samples, as `prepare_questions` returns them; every leaf has a leading axis n.
        embeddings: of their questions.
        metric: scores an answer.
        size: the batch is padded to this number of samples, so that all batches share one compiled program.
        keep_features: whether to return features, conditioned on the answers if the model can do so.
        answers: of the samples, as `labels` returns them; by default computed here, if they are needed.

    Raises:
        R2T2Error: a feature, a routing weight or an embedding is not finite, routing weights are no shares, or an
            embedding is not a unit vector; the message names the samples.
    """
    known = labels(port, samples) if keep_features and answers is None else answers
    together = default_vmap_size(port.model)

    def answer(rows: Rows) -> tuple[Features | None, Float[Array, "size L E"], Int[Array, "size A"]]:
        features, routing = encode_batch(port.params, take(inputs, rows), model=port.model, vmap_size=together)
        tokens = generate_batch(port, features, None, together)
        return condition_batch(port, features, take(known, rows)) if keep_features else None, routing, tokens

    features, routing, tokens = run_batch(answer, 0, len(samples), size)
    _check(f"{port.name}: routing", samples, ~np.isfinite(routing).all(axis=(1, 2)), "NaN or infinite")
    check_weights(f"{port.name} route", routing, port.model.spec, remedy=SHARES)
    _check(f"{port.name}: features", samples, _not_finite(features, len(samples)), "NaN or infinite")
    length = np.square(embeddings).sum(axis=1)
    _check("question embeddings", samples, ~np.isfinite(length), "NaN or infinite")
    _check("question embeddings", samples, length == 0, "zero")
    _check("question embeddings", samples, np.abs(length - 1) > UNIT_TOLERANCE, "not of unit length")
    records = [
        make_record(sample, prediction, metric(prediction, sample))
        for sample, prediction in zip(samples, port.processor.decode(tokens), strict=True)
    ]
    return ReferenceBatch(records, features, np.asarray(routing, np.float32), np.asarray(embeddings, np.float32))


def make_record(sample: Sample, prediction: str, score: float) -> dict[str, Any]:
    """The record of a reference in a bank (`bank/records.py`), without its source."""
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
        "image_sha256": image_digest(sample.image),
    }


def _check(name: str, samples: Sequence[Sample], bad: Bool[np.ndarray, "n"], fault: str) -> None:
    if bad.any():
        ids = [sample.id for sample, is_bad in zip(samples, bad, strict=True) if is_bad]
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        raise R2T2Error(f"{name} of {shown} are {fault}: leave these samples out, or fix the model or embedder")


def _not_finite(tree: Any, n: int) -> Bool[np.ndarray, "n"]:
    bad = np.zeros(n, bool)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            bad |= ~np.isfinite(leaf.astype(np.float32)).reshape(n, -1).all(axis=1)
    return bad


def collect_bank(
    port: Port, samples: Sequence[Sample], metric: Metric, batch_size: int = BATCH, keep_wrong: bool = False
) -> ReferenceBank:
    """A bank in memory of the samples that the model answers correctly, or with `keep_wrong` of all samples, flagged.

    Raises:
        R2T2Error: there is no sample, the model answers none of them correctly, or as `collect_references`.
    """
    prepared, n = prepare_questions(port, samples), len(samples)
    size, answers = min(batch_size, n), labels(port, samples)

    def collect(start: int) -> ReferenceBatch:
        span = slice(start, min(start + size, n))
        inputs, embeddings, known = jax.tree.map(
            lambda leaf: leaf[span], (prepared.inputs, prepared.embeddings, answers)
        )
        batch = collect_references(port, samples[span], inputs, embeddings, metric, size, answers=known)
        progress.update(len(batch.records))
        return batch

    with progress_bar(n, f"{port.name}: answer references") as progress:
        batches = list(compute_ahead(collect, range(0, n, size), threads_at_a_time()))
    correct = np.concatenate([batch.correct for batch in batches])
    if not correct.any():
        raise R2T2Error(f"{port.name} answered none of {n} reference questions correctly: there is no bank")
    rows = np.arange(n) if keep_wrong else np.flatnonzero(correct)
    records = [record for batch in batches for record in batch.records]
    arrays = [(batch.features, batch.routing, batch.embeddings) for batch in batches]
    features, routing, embeddings = jax.tree.map(lambda *leaves: np.concatenate(leaves)[rows], *arrays)
    return ReferenceBank(
        features=features,
        answers=jax.tree.map(lambda leaf: leaf[rows], answers),
        routing=routing,
        embeddings=embeddings,
        records=[records[i] for i in rows.tolist()],
        model_fingerprint=port.fingerprint,
        embedder_fingerprint=port.embedder.fingerprint,
        processing_fingerprint=processing_fingerprint(port),
        correct=correct if keep_wrong else None,
        spec=port.model.spec,
    )


def labels(port: Port, samples: Sequence[Sample]) -> Answer:
    """The first answer of each sample, as `answer_loss` takes it; every leaf has a leading axis n."""
    return jax.tree.map(np.asarray, port.processor.answer_ids([sample.answers[0] for sample in samples]))


def with_shipped_atlas(bank: ReferenceBank, port: Port) -> ReferenceBank:
    """The bank of all of the port's own references, with the loss atlas that ships with the port, if there is one.

    Raises:
        R2T2Error: the atlas cannot be read, or has no row for a reference.
    """
    if port.atlas is None:
        return bank
    return replace(bank, atlas=open_atlas(port.atlas).of([str(record["id"]) for record in bank.records]))
