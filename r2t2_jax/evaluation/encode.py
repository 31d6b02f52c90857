"""Encodes samples: everything that depends neither on routing nor on a strategy is computed once.

Axis letters: B samples, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from r2t2_jax.contract import Answer, Features, Inputs, Port, Query, Sample, default_vmap_size, support_of
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import encode_batch
from r2t2_jax.runtime.batching import Rows, map_batches, take, threads_at_a_time
from r2t2_jax.runtime.checks import SHARES, check_finite, check_weights
from r2t2_jax.runtime.progress import progress_bar
from r2t2_jax.validation.port import check_foreign

BATCH = 48  # a multiple of the numbers of samples that models compute together on a CPU


@dataclass(frozen=True)
class EncodedQuestions:
    """Samples with their queries and question embeddings.

    Args:
        samples: the B samples.
        queries: every leaf with a leading axis B, features on the host; `task_routing` if all samples name experts.
        embeddings: unit vectors.
        seconds_per_sample: that encoding took.
    """

    samples: tuple[Sample, ...]
    queries: Query
    embeddings: Float[np.ndarray, "B M"]
    seconds_per_sample: float


@dataclass(frozen=True)
class PreparedQuestions:
    """Samples with the model's inputs, which the host computes; every leaf of `inputs` has a leading axis B."""

    samples: tuple[Sample, ...]
    inputs: Inputs
    embeddings: Float[np.ndarray, "B M"]


def prepare_questions(port: Port, samples: Sequence[Sample], texts: Sequence[str] | None = None) -> PreparedQuestions:
    """Compute the model's inputs and the question embeddings, on the host.

    Args:
        port: the model.
        samples: at least one.
        texts: to embed, one per sample; by default the samples' questions.

    Raises:
        R2T2Error: there is no sample, the port cannot prepare one, or a port that is not of this package does not keep
            the contract (`validation.port.check_foreign`).
    """
    if not samples:
        raise R2T2Error("there is no sample to encode")
    check_foreign(port, samples)
    # All at once: the samples then share a length bucket, and their features can be stacked.
    inputs = port.processor.prepare(port.params, samples)
    embeddings = port.embedder.embed([sample.question for sample in samples] if texts is None else texts)
    return PreparedQuestions(tuple(samples), inputs, embeddings)


def note_of_long_questions(port: Port, samples: Sequence[Sample]) -> str:
    """A line about questions that the model's processor truncates; empty if all fit, or if it cannot tell (`fits`)."""
    fits = getattr(port.processor, "fits", lambda question: True)
    long = [sample.id for sample in samples if not fits(sample.question)]
    if not long:
        return ""
    return f"{len(long):,} of {len(samples):,} questions are too long for {port.name} and are cut, first {long[0]!r}"


def encode_prepared(
    port: Port,
    prepared: PreparedQuestions,
    batch_size: int,
    progress: tqdm,
    threads: int = 1,
    vmap_size: int | None = None,
) -> EncodedQuestions:
    """The questions with features and router weights, `threads` batches at a time.

    The device computes `vmap_size` samples together, by default as many as the model says.

    Raises:
        R2T2Error: a feature is NaN, routing weights are no shares, or a sample names an expert that the model does not
            have.
    """
    vmap_size = default_vmap_size(port.model) if vmap_size is None else vmap_size

    def encode(rows: Rows) -> tuple[Features, Float[Array, "B L E"]]:
        return encode_batch(port.params, take(prepared.inputs, rows), model=port.model, vmap_size=vmap_size)

    (features, routing), seconds = map_batches(encode, len(prepared.samples), batch_size, progress, threads)
    check_finite(f"{port.name} features", features)
    check_weights(f"{port.name} route", routing, port.model.spec, remedy=SHARES)
    return _with_queries(port, prepared, features, routing, seconds)


def _with_queries(
    port: Port, prepared: PreparedQuestions, features: Features, routing: Float[Array, "B L E"], seconds: float
) -> EncodedQuestions:
    query = Query(
        features=features,
        routing=routing,
        support=support_of(port.model, features, routing),
        answer=_labels(port, prepared.samples),
        task_routing=_task_routing(port, prepared.samples),
    )
    return EncodedQuestions(prepared.samples, query, prepared.embeddings, seconds)


def encode_questions(
    port: Port, samples: Sequence[Sample], batch_size: int = BATCH, texts: Sequence[str] | None = None
) -> EncodedQuestions:
    """Prepare, embed (`texts`, by default the questions) and encode.

    Raises:
        R2T2Error: there is no sample, a feature is NaN, or a sample names an expert that the model does not have.
    """
    prepared = prepare_questions(port, samples, texts)
    with progress_bar(len(samples), f"{port.name}: encode") as progress:
        return encode_prepared(port, prepared, batch_size, progress, threads_at_a_time())


def _labels(port: Port, samples: Sequence[Sample]) -> Answer | None:
    """The first answer of each sample; `None` if any sample is unlabeled."""
    if not all(sample.answers for sample in samples):
        return None
    return jax.tree.map(np.asarray, port.processor.answer_ids([sample.answers[0] for sample in samples]))


def _task_routing(port: Port, samples: Sequence[Sample]) -> Float[Array, "B L E"] | None:
    """Weights on the experts that each sample names; `None` if a sample names none, or all name another model's."""
    named = {name for sample in samples for name in sample.experts}
    if not all(sample.experts for sample in samples) or named.isdisjoint(port.model.spec.experts):
        return None
    model = cast(Hashable, port.model)  # jit takes it as a static argument
    return jax.device_put(np.stack([_one_hot(model, tuple(sample.experts)) for sample in samples]))


@lru_cache(maxsize=1024)  # the same few sets in every batch
def _one_hot(model: Any, experts: tuple[str, ...]) -> Float[np.ndarray, "L E"]:
    """Equal weight on the named experts in every layer."""
    weights: np.ndarray = model.spec.one_hot_experts(experts)
    return weights
