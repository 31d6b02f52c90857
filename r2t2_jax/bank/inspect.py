"""Statistics of a bank: sizes, accuracy, experts, duplicates, leakage, and whether its routing depends on the question.

Axis letters: N references, L routed layers, E experts, M embedding size.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from r2t2_jax.bank.manifest import image_digest, read_manifest
from r2t2_jax.bank.records import Records
from r2t2_jax.bank.reference_bank import ReferenceBank
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval import build_index
from r2t2_jax.retrieval.hashed_bag_of_words import HashedBagOfWords
from r2t2_jax.routing import RoutingSpec

MAX_REFERENCES = 5000  # of the permutation test, which costs N K^2 products per permutation
PERMUTATIONS = 999
SIGNIFICANT = 0.01
SIMILAR = 0.9  # cosine of hashed words and word pairs from which questions count as nearly equal


@dataclass(frozen=True)
class RoutingPredictability:
    """R^2 of predicting a reference's routing from the routing of its neighbors.

    `null` is the mean R^2 with permuted weights; `p` is the share of permutations, including the observed assignment,
    whose R^2 is at least as large.
    """

    n: int
    k: int
    r2: float
    null: float
    p: float
    permutations: int

    @property
    def informative(self) -> bool:
        """Whether the weights depend on the question, at the 1 % level."""
        return self.p <= SIGNIFICANT


def routing_predictability(
    routing: Float[np.ndarray, "N L E"], embeddings: Float[np.ndarray, "N M"], k: int = 5, seed: int = 0
) -> RoutingPredictability | None:
    """Whether similar questions have similar weights, by a permutation test; `None` if all weights are equal.

    Raises:
        R2T2Error: there are too few references.
    """
    if k < 1 or len(routing) < k + 2:
        raise R2T2Error(f"{len(routing)} references are too few for {k} neighbors of each; k must be at least 1")
    rng = np.random.default_rng(seed)
    if len(routing) > MAX_REFERENCES:
        chosen = np.sort(rng.choice(len(routing), MAX_REFERENCES, replace=False))
        routing, embeddings = routing[chosen], embeddings[chosen]
    weights = np.asarray(routing, np.float64).reshape(len(routing), -1)  # [N, D]
    weights = weights - weights.mean(axis=0)
    total = np.square(weights).sum()
    if total <= 1e-12 * weights.size:
        return None
    neighbors = other_neighbors(np.asarray(embeddings, np.float32), k)
    products = weights @ weights.T  # [N, N]: the errors need only these products
    own = np.arange(len(weights))
    observed = _r2(products, own, neighbors)
    null = np.array([_r2(products, rng.permutation(own), neighbors) for _ in range(PERMUTATIONS)])
    return RoutingPredictability(
        n=len(weights),
        k=k,
        r2=observed,
        null=float(null.mean()),
        p=float((1 + (null >= observed).sum()) / (1 + PERMUTATIONS)),
        permutations=PERMUTATIONS,
    )


def other_neighbors(embeddings: Float[np.ndarray, "N M"], k: int) -> Int[np.ndarray, "N K"]:
    """The k nearest other references of each; ties by index."""
    hits = build_index(embeddings, "exact").search(embeddings, k + 1)
    others = hits.indices != np.arange(len(embeddings))[:, None]  # [N, K + 1]
    others[others.all(axis=1), -1] = False  # of more than k equal vectors, it may be missing from its own nearest
    return hits.indices[others].reshape(-1, k)


def _r2(products: Float[np.ndarray, "N N"], holder: Int[np.ndarray, "N"], neighbors: Int[np.ndarray, "N K"]) -> float:
    """R^2 when reference i is assigned the weights of `holder[i]`.

    |r - mean r_j|^2 = r.r - 2 / K sum_j r.r_j + 1 / K^2 sum_jj' r_j.r_j': products of two references only.
    """
    k = neighbors.shape[1]
    assigned = holder[neighbors]  # [N, K]
    total = np.trace(products)
    cross = products[holder[:, None], assigned].sum()
    among = products[assigned[:, :, None], assigned[:, None, :]].sum()
    return float(1 - (total - 2 * cross / k + among / k**2) / total)


@dataclass(frozen=True)
class SourceCount:
    """Number of references of a source, and of correctly answered ones."""

    name: str
    rows: int
    correct: int


@dataclass(frozen=True)
class ExpertUse:
    """Weight of an expert over references and layers: mean, standard deviation, and share in which it is the largest
    of its group.
    """

    name: str
    mean: float
    std: float
    largest: float


@dataclass(frozen=True)
class Inspection:
    """The result of `r2t2 bank inspect`.

    `entropy` is the mean entropy of a group's weights relative to equal weights: 1 is uniform, 0 a single expert.
    `repeated_questions` counts rows with the question text of an earlier row, `repeated_rows` rows with its question
    and image.
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
    predictability: RoutingPredictability | None


def inspect_bank(bank: ReferenceBank, k: int = 5, seed: int = 0) -> Inspection:
    """Statistics of a bank.

    Args:
        bank: all references, answered correctly or not.
        k: number of neighbors in the test of whether routing depends on the question.
        seed: of its permutations.

    Raises:
        R2T2Error: the bank has too few references for k.
    """
    routing = np.asarray(bank.routing, np.float64)
    _, layers, count = routing.shape
    spec = bank.spec or RoutingSpec(tuple(f"expert {e}" for e in range(count)), layers)
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
        predictability=routing_predictability(routing, np.asarray(bank.embeddings), k, seed),
    )


def _by_source(sources: list[str], right: Bool[np.ndarray, "N"]) -> tuple[SourceCount, ...]:
    rows, correct = Counter(sources), Counter(name for name, ok in zip(sources, right, strict=True) if ok)
    return tuple(SourceCount(name, rows[name], correct[name]) for name in sorted(rows))


def _expert_use(spec: RoutingSpec, routing: Float[np.ndarray, "N L E"]) -> tuple[ExpertUse, ...]:
    largest_share = np.zeros(spec.num_experts)
    for group in spec.groups:
        largest = np.asarray(group)[routing[..., list(group)].argmax(axis=-1)]  # [N, L]
        largest_share += np.bincount(largest.ravel(), minlength=spec.num_experts) / largest.size
    mean, std = routing.mean(axis=(0, 1)), routing.std(axis=(0, 1))
    return tuple(
        ExpertUse(name, float(mean[e]), float(std[e]), float(largest_share[e])) for e, name in enumerate(spec.experts)
    )


def _entropy(spec: RoutingSpec, routing: Float[np.ndarray, "N L E"]) -> float | None:
    """Relative entropy over groups of several experts; `None` if there is none whose weights can be normalized."""
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


@dataclass(frozen=True)
class Leakage:
    """Overlap of an evaluation set with a bank; `leaks` are ids of samples whose image and question are in the bank."""

    questions: int
    same_image: int
    same_question: int
    alike_question: int
    leaks: tuple[str, ...]
    images_known: bool


def find_leakage(bank: ReferenceBank, samples: Sequence[Sample]) -> Leakage:
    """The test samples that are also references; in a bank without images they are matched by id and question."""
    records = list(bank.records)
    texts = [_normalize(record["question"]) for record in records]
    by_image: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        if record.get("image_sha256"):
            by_image[record["image_sha256"]].append(row)
    references = HashedBagOfWords().embed(texts)
    questions = HashedBagOfWords().embed([_normalize(sample.question) for sample in samples])
    nearest = build_index(references, "exact").search(questions, 1).indices[:, 0]
    similar = (references[nearest] * questions).sum(axis=1) >= SIMILAR
    same_text = set(texts)
    by_id = {(record["id"], text) for record, text in zip(records, texts, strict=True)}
    without_image = {id(sample) for sample in leaked_samples(bank, [each for each in samples if each.image is None])}
    leaks, same_image = [], 0
    for sample, vector in zip(samples, questions, strict=True):
        rows = by_image.get(image_digest(sample.image), []) if by_image else []
        same_image += bool(rows)
        leaked = rows and (references[rows] @ vector).max() >= SIMILAR
        by_text = not by_image and (sample.id, _normalize(sample.question)) in by_id
        if leaked or by_text or id(sample) in without_image:
            leaks.append(sample.id)
    return Leakage(
        questions=len(samples),
        same_image=same_image,
        same_question=sum(_normalize(sample.question) in same_text for sample in samples),
        alike_question=int(np.sum(similar)),
        leaks=tuple(leaks),
        images_known=bool(by_image),
    )


def leaked_samples(bank: ReferenceBank, samples: Sequence[Sample]) -> list[Sample]:
    """Test samples that are references, as `reference_test` finds them."""
    return list(filter(reference_test(bank), samples))


def reference_test(bank: ReferenceBank) -> Callable[[Sample], bool]:
    """Whether a sample is a reference: of the same id and question, or, under any id, of the same image and question.

    Images are compared by their pixels, questions without case, repeated spaces and final punctuation. Only images of
    questions that some reference has too are decoded. Questions without an image and without a context are the same
    under any id if their options are equal too.
    """
    ids, images = set[tuple[str, str]](), defaultdict[str, set[str]](set)
    texts = set[tuple[str, tuple[str, ...]]]()  # of references without an image
    for name, question, digest, options in _identities(bank):
        text = _normalize(question or "")
        ids.add((name, text))
        if digest:
            images[text].add(digest)
        else:
            texts.add((text, tuple(options or ())))

    def is_reference(sample: Sample) -> bool:
        text = _normalize(sample.question)
        if (sample.id, text) in ids:
            return True
        if sample.image is None:
            return not sample.context and (text, tuple(sample.options)) in texts
        return text in images and image_digest(sample.image) in images[text]

    return is_reference


def _identities(bank: ReferenceBank) -> Iterator[tuple[str, str | None, str | None, Sequence[str] | None]]:
    """Id, question, image digest and options of every reference."""
    columns = ("id", "question", "image_sha256", "options")
    if isinstance(bank.records, Records):
        yield from zip(*map(bank.records.column, columns), strict=True)
    else:
        yield from ((record["id"], *map(record.get, columns[1:])) for record in bank.records)


def _normalize(question: str) -> str:
    return " ".join(question.lower().split()).rstrip(" .,;:!?")
