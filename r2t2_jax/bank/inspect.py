"""What a bank holds, in numbers: sizes, accuracy, experts, duplicates, and whether its routing knows the question.

Axis letters: N references, L routed layers, E experts, M embedding size.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from r2t2_jax.bank.manifest import image_digest, read_manifest
from r2t2_jax.bank.reference_bank import ReferenceBank
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval import build_index
from r2t2_jax.retrieval.hashed_bag_of_words import HashedBagOfWords
from r2t2_jax.routing import RoutingSpec

LOOKED = 5000  # references, drawn where there are more: each permutation looks up N K^2 products
PERMUTATIONS = 999
SIGNIFICANT = 0.01


@dataclass(frozen=True)
class Knowledge:
    """What the nearest references tell of a reference's routing weights.

    `null` is the mean of R^2 with weights given out at random; `p` is the share of those, the observed one counted,
    that are at least as large.
    """

    n: int
    k: int
    r2: float
    null: float
    p: float
    permutations: int

    @property
    def informative(self) -> bool:
        """Whether the weights tell something of the question, at the 1 % level."""
        return self.p <= SIGNIFICANT


def routing_knowledge(
    routing: Float[np.ndarray, "N L E"], embeddings: Float[np.ndarray, "N M"], k: int = 5, seed: int = 0
) -> Knowledge | None:
    """Test whether near questions have like weights; `None` where all references have the same weights.

    Raises:
        R2T2Error: there are too few references.
    """
    if k < 1 or len(routing) < k + 2:
        raise R2T2Error(f"{len(routing)} references are too few to look at {k} neighbours of each; k is at least 1")
    rng = np.random.default_rng(seed)
    if len(routing) > LOOKED:
        chosen = np.sort(rng.choice(len(routing), LOOKED, replace=False))
        routing, embeddings = routing[chosen], embeddings[chosen]
    weights = np.asarray(routing, np.float64).reshape(len(routing), -1)  # [N, D]
    weights = weights - weights.mean(axis=0)
    total = np.square(weights).sum()
    if total <= 1e-12 * weights.size:
        return None
    neighbors = other_neighbors(np.asarray(embeddings, np.float32), k)
    products = weights @ weights.T  # [N, N]: errors need no more, however many weights there are
    own = np.arange(len(weights))
    found = _r2(products, own, neighbors)
    null = np.array([_r2(products, rng.permutation(own), neighbors) for _ in range(PERMUTATIONS)])
    return Knowledge(
        n=len(weights),
        k=k,
        r2=found,
        null=float(null.mean()),
        p=float((1 + (null >= found).sum()) / (1 + PERMUTATIONS)),
        permutations=PERMUTATIONS,
    )


def other_neighbors(embeddings: Float[np.ndarray, "N M"], k: int) -> Int[np.ndarray, "N K"]:
    """The k nearest references of each that are not itself; equally near ones by index."""
    hits = build_index(embeddings, "exact").search(embeddings, k + 1)
    others = hits.indices != np.arange(len(embeddings))[:, None]  # [N, K + 1]
    others[others.all(axis=1), -1] = False  # more than k equal vectors: it is not among its own nearest
    return hits.indices[others].reshape(-1, k)


def _r2(products: Float[np.ndarray, "N N"], holder: Int[np.ndarray, "N"], neighbors: Int[np.ndarray, "N K"]) -> float:
    """R^2 when reference i holds the weights of `holder[i]`.

    |r - mean r_j|^2 = r.r - 2 / K sum_j r.r_j + 1 / K^2 sum_jj' r_j.r_j', all of them products of two references.
    """
    k = neighbors.shape[1]
    near = holder[neighbors]  # [N, K]
    total = np.trace(products)
    cross = products[holder[:, None], near].sum()
    among = products[near[:, :, None], near[:, None, :]].sum()
    return float(1 - (total - 2 * cross / k + among / k**2) / total)


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


ALIKE = 0.9  # cosine of hashed words and word pairs: a word or two of ten changed


@dataclass(frozen=True)
class Leakage:
    """Questions of an evaluation set that meet the bank; `leaks` are ids of those in it with image and question."""

    questions: int
    same_image: int
    same_question: int
    alike_question: int
    leaks: tuple[str, ...]
    images_known: bool


def find_leakage(bank: ReferenceBank, samples: Sequence[Sample]) -> Leakage:
    """Compare an evaluation set with a bank. Without images in the bank, leaks are told by id and question alone."""
    records = list(bank.records)
    texts = [_plain(record["question"]) for record in records]
    by_image: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        if record.get("image_sha256"):
            by_image[record["image_sha256"]].append(row)
    known = HashedBagOfWords().embed(texts)
    asked = HashedBagOfWords().embed([_plain(sample.question) for sample in samples])
    nearest = build_index(known, "exact").search(asked, 1).indices[:, 0]
    alike = (known[nearest] * asked).sum(axis=1) >= ALIKE
    same_text = set(texts)
    by_id = {(record["id"], text) for record, text in zip(records, texts, strict=True)}
    leaks, same_image = [], 0
    for sample, vector in zip(samples, asked, strict=True):
        rows = by_image.get(image_digest(sample.image), []) if by_image else []
        same_image += bool(rows)
        near = rows and (known[rows] @ vector).max() >= ALIKE
        if near or (not by_image and (sample.id, _plain(sample.question)) in by_id):
            leaks.append(sample.id)
    return Leakage(
        questions=len(samples),
        same_image=same_image,
        same_question=sum(_plain(sample.question) in same_text for sample in samples),
        alike_question=int(np.sum(alike)),
        leaks=tuple(leaks),
        images_known=bool(by_image),
    )


def _plain(question: str) -> str:
    return " ".join(question.lower().split()).rstrip(" .,;:!?")
