"""What a bank holds, in numbers: sizes, accuracy, experts, duplicates, and whether its routing knows the question.

Axis letters: N references, L routed layers, E experts, M embedding size.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.bank.knowledge import Knowledge, routing_knowledge
from r2t2_jax.bank.manifest import read_manifest
from r2t2_jax.bank.reference_bank import ReferenceBank
from r2t2_jax.routing import RoutingSpec

FALLBACK = "expert {}"


@dataclass(frozen=True)
class SourceCount:
    """References of one source, and how many of them were answered correctly."""

    name: str
    rows: int
    correct: int


@dataclass(frozen=True)
class ExpertUse:
    """How an expert is used, over references and layers: mean weight, and how often it weighs most in its group."""

    name: str
    weight: float
    spread: float
    first: float


@dataclass(frozen=True)
class Inspection:
    """What `r2t2 bank inspect` tells.

    `entropy` is the mean entropy of a group's weights as a share of that of equal weights: 1 is uniform, 0 one expert.
    `repeated_questions` counts rows whose question text stands in an earlier row, `repeated_rows` those whose question
    and image do.
    """

    rows: int
    correct: int
    embedding_size: int
    layers: int
    model: str
    embedder: str
    processing: str
    metric: str
    features: bool
    sources: tuple[SourceCount, ...]
    experts: tuple[ExpertUse, ...]
    entropy: float | None
    repeated_questions: int
    repeated_rows: int
    knowledge: Knowledge | None


def inspect_bank(bank: ReferenceBank, k: int = 5, seed: int = 0) -> Inspection:
    """Look into a bank.

    Args:
        bank: as opened, right and wrong references.
        k: neighbours of the test whether routing knows the question.
        seed: of its permutations.

    Raises:
        R2T2Error: the bank has too few references for k.
    """
    routing = np.asarray(bank.routing, np.float64)
    _, layers, count = routing.shape
    spec = bank.spec or RoutingSpec(tuple(FALLBACK.format(e) for e in range(count)), layers)
    records = list(bank.records)
    texts = [" ".join((record.get("question") or record["id"]).lower().split()) for record in records]
    images = [record.get("image_sha256") or record.get("image") or "" for record in records]
    return Inspection(
        rows=len(bank),
        correct=int(bank.right.sum()),
        embedding_size=bank.embeddings.shape[1],
        layers=layers,
        model=bank.model_fingerprint,
        embedder=bank.embedder_fingerprint,
        processing=bank.processing_fingerprint,
        metric=bank.metric,
        features=bank.folder is not None and bool(read_manifest(bank.folder).stored),
        sources=_by_source([record.get("source") or "" for record in records], bank.right),
        experts=_expert_use(spec, routing),
        entropy=_entropy(spec, routing),
        repeated_questions=len(texts) - len(set(texts)),
        repeated_rows=len(texts) - len(set(zip(texts, images, strict=True))),
        knowledge=routing_knowledge(routing, np.asarray(bank.embeddings), k, seed),
    )


def _by_source(sources: list[str], right: Bool[np.ndarray, "N"]) -> tuple[SourceCount, ...]:
    rows, correct = Counter(sources), Counter(name for name, ok in zip(sources, right, strict=True) if ok)
    return tuple(SourceCount(name, rows[name], correct[name]) for name in sorted(rows))


def _expert_use(spec: RoutingSpec, routing: Float[np.ndarray, "N L E"]) -> tuple[ExpertUse, ...]:
    first = np.zeros(spec.num_experts)
    for group in spec.groups:
        leader = np.asarray(group)[routing[..., list(group)].argmax(axis=-1)]  # [N, L]
        first += np.bincount(leader.ravel(), minlength=spec.num_experts) / leader.size
    weight, spread = routing.mean(axis=(0, 1)), routing.std(axis=(0, 1))
    return tuple(
        ExpertUse(name, float(weight[e]), float(spread[e]), float(first[e])) for e, name in enumerate(spec.experts)
    )


def _entropy(spec: RoutingSpec, routing: Float[np.ndarray, "N L E"]) -> float | None:
    """Over the groups of more than one expert; `None` where there is none, or weights are no shares."""
    shares = []
    for group in spec.groups:
        weights = routing[..., list(group)]  # [N, L, group]
        total = weights.sum(axis=-1, keepdims=True)
        if len(group) < 2 or (weights < 0).any() or (total <= 0).any():
            continue
        weights = weights / total
        logs = np.log(np.where(weights > 0, weights, 1.0))
        shares.append(-(weights * logs).sum(axis=-1).mean() / np.log(len(group)))
    return float(np.mean(shares)) if shares else None
