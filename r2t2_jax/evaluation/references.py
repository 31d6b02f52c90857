"""Reference retrieval: for each strategy, the neighbors or the atlas rows of every test sample.

Axis letters: B test samples, n selected samples, K neighbors, C references answered correctly, M embedding size,
H size of the gate's input, G atlas points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Embedder, References, Sample
from r2t2_jax.evaluation.feature_cache import SharedSamples
from r2t2_jax.evaluation.records import CORRECT
from r2t2_jax.method.search.atlas_points import DEQUANTIZE, AtlasLoss
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import Method
from r2t2_jax.metrics import Metric
from r2t2_jax.retrieval.neighbors import EpsilonBall, Neighbors, select
from r2t2_jax.retrieval.protocol import Index
from r2t2_jax.rivals.knn_moe import HiddenStateMemory
from r2t2_jax.rivals.trained import Network, fit_predictor, predict_losses
from r2t2_jax.runtime.batching import Rows, take


@dataclass(frozen=True)
class BatchNeighbors:
    """The neighbors of a batch of test samples, by strategy.

    Args:
        index: the references; `None` without a bank.
        strategies: by name.
        neighborhoods: by strategy; indices are rows of the bank for strategies that read the atlas, else rows of
            `index.correct`. `None` for strategies without neighbors.
        predicted: by kind of loss, the losses at the atlas points that a network predicts, for `atlas_mlp`.
        shared: features that several strategies read, of some samples (`share_features`).
    """

    index: RetrievalIndex | None
    strategies: Mapping[str, Method]
    neighborhoods: Mapping[str, Neighbors | None]
    predicted: Mapping[AtlasLoss, Float[np.ndarray, "B G"]]
    shared: SharedSamples | None = None

    @classmethod
    def none(cls, strategies: Mapping[str, Method]) -> BatchNeighbors:
        """No neighbors for any strategy, because there is no bank."""
        return cls(None, strategies, dict.fromkeys(strategies), {})

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """Records of the bank's rows."""
        return () if self.index is None else self.index.bank.records

    def _reads_features(self, name: str) -> bool:
        strategy = self.strategies[name]
        return isinstance(strategy, Strategy) and strategy.reads_neighbor_features

    def share_features(self, names: Sequence[str], rows: Rows) -> BatchNeighbors:
        """The same neighbors; what these strategies read of the bank for these samples is read once, at first use."""
        readers = [
            neighbors for name in names if (neighbors := self.neighborhoods[name]) and self._reads_features(name)
        ]
        if self.index is None or self.index.correct.reader is None or len(readers) < 2:
            return self
        needed = np.unique(np.concatenate([np.asarray(neighbors.indices)[rows].ravel() for neighbors in readers]))
        return replace(self, shared=SharedSamples(self.index.correct.samples, needed))

    def references(self, name: str, rows: Rows) -> References | None:
        """The references that a strategy reads for some samples; every leaf has a leading axis n.

        Args:
            name: of the strategy.
            rows: of the samples in the batch.

        Raises:
            R2T2Error: the strategy reads an atlas and the bank has none.
        """
        if self.index is None:
            return None
        index, strategy, neighbors = self.index, self.strategies[name], take(self.neighborhoods[name], rows)
        if strategy.atlas is None:
            features = self._reads_features(name)
            references = index.correct.references(neighbors, strategy.kernel, features, self.shared)
            if index.memory is None or name not in index.memory.routing:
                return references
            assert neighbors is not None
            remembered = index.memory.routing[name][np.asarray(neighbors.indices)]
            return replace(references, routing=jax.device_put(remembered))
        if strategy.atlas.source == "neighbors":
            assert neighbors is not None
            assert strategy.kernel is not None
            return index.bank.atlas_references(neighbors, strategy.kernel, strategy.atlas.loss)
        if strategy.atlas.source == "mlp":
            return index.bank.atlas_references_from(self.predicted[strategy.atlas.loss][rows])
        mean = index.bank.require_atlas().mean(strategy.atlas.loss)
        return index.bank.atlas_references_from(np.repeat(mean[None], len(rows), axis=0))

    def indices(self, name: str, rows: Rows) -> Int[np.ndarray, "n K"]:
        """Rows of the bank: the neighbors of some samples. K = 0 for strategies without neighbors."""
        neighbors = self.neighborhoods[name]
        if neighbors is None or self.index is None:
            return np.zeros((len(rows), 0), int)
        indices = np.asarray(neighbors.indices)[rows]
        return indices if self.strategies[name].atlas is not None else self.index.correct_rows[indices]

    def counts(self, name: str, rows: Rows) -> Int[np.ndarray, "n"]:
        """The number of neighbors of some samples: K, or for a ball without a cap the number of references in it."""
        neighbors, selector = self.neighborhoods[name], self.strategies[name].selector
        if neighbors is None:
            return np.zeros(len(rows), int)
        if isinstance(selector, EpsilonBall) and selector.k is None:
            return np.asarray(neighbors.mask)[rows].sum(axis=1)
        return np.full(len(rows), neighbors.mask.shape[1])

    def similarities(self, name: str, rows: Rows) -> Float[np.ndarray, "n K"]:
        """Dot products of the samples' embeddings with those of their neighbors."""
        neighbors = self.neighborhoods[name]
        return np.zeros((len(rows), 0), np.float32) if neighbors is None else np.asarray(neighbors.dots)[rows]


def permuted_labels(
    records: Sequence[Mapping[str, Any]], samples: Sequence[Sample], dataset_indices: Int[np.ndarray, "B"], seed: int
) -> list[str]:
    """For each sample the label of a reference of its family, or of any reference if the bank has none of the family.

    Args:
        records: of all references.
        samples: the B test samples; `category` is the family.
        dataset_indices: positions of the samples in their test set; a draw depends on its position and the seed only.
        seed: of the draws.
    """
    answers: dict[str, list[str]] = {}
    for record in records:
        answers.setdefault(str(record.get("category") or ""), []).append(str(record["answer"]))
    everything = [answer for group in answers.values() for answer in group]
    labels = []
    for sample, number in zip(samples, dataset_indices.tolist(), strict=True):
        group = answers.get(sample.category, everything)
        labels.append(group[int(np.random.default_rng((seed, number)).integers(len(group)))])
    return labels


@dataclass(frozen=True)
class RetrievalIndex:
    """A bank ready for retrieval: its indices, and the networks that are fitted on its rows.

    Args:
        bank: all references.
        correct: those that the model answers correctly.
        correct_index, full_index: over `correct` and, if a strategy reads the atlas, over `bank`.
        networks: by kind of loss, fitted on the atlas for `atlas_mlp`.
        memory: hidden states and routing of `correct`, for strategies that retrieve by them.
    """

    bank: ReferenceBank
    correct: ReferenceBank
    correct_index: Index
    full_index: Index | None
    networks: Mapping[AtlasLoss, Network]
    memory: HiddenStateMemory | None = None

    @cached_property
    def correct_rows(self) -> Int[np.ndarray, "C"]:
        """Rows of `bank` that `correct` holds."""
        return np.flatnonzero(self.bank.right)

    def retrieve(
        self,
        strategies: Mapping[str, Method],
        embeddings: Float[np.ndarray, "B M"],
        keys: Key[Array, "B"],
        hidden: Float[np.ndarray, "B H"] | None = None,
        feature_bytes: int = 0,
    ) -> BatchNeighbors:
        """Retrieve the neighbors of a batch for every strategy.

        Args:
            strategies: by name.
            embeddings: of the questions.
            keys: for selectors that draw neighbors at random.
            hidden: input of the gate, for strategies with a hidden-state memory.
            feature_bytes: size of the features of one sample, which bounds balls without a cap.

        Raises:
            R2T2Error: a strategy needs more neighbors than there are references.
        """

        def neighbors_of(name: str, strategy: Method) -> Neighbors | None:
            index, vectors = (self.correct_index if strategy.atlas is None else self.full_index), embeddings
            if self.memory is not None and hidden is not None and name in self.memory.routing:
                index, vectors = self.memory.index, hidden
            if strategy.selector is None or index is None:
                return None
            reads = isinstance(strategy, Strategy) and strategy.reads_neighbor_features
            neighbors = select(strategy.selector, index, vectors, keys, feature_bytes if reads else 0)
            return jax.tree.map(np.asarray, neighbors)  # of which each batch takes some rows

        neighborhoods = {name: neighbors_of(name, strategy) for name, strategy in strategies.items()}
        predicted = {loss: predict_losses(network, embeddings) for loss, network in self.networks.items()}
        return BatchNeighbors(self, strategies, neighborhoods, predicted)


def build_retrieval_index(
    bank: ReferenceBank, strategies: Mapping[str, Method], seed: int, questions: int = 0
) -> RetrievalIndex:
    """Index the references and fit the networks that strategies need; without the hidden-state memory.

    Args:
        bank: all references.
        strategies: by name.
        seed: of the networks.
        questions: number of questions of the run, if known.

    Raises:
        R2T2Error: a strategy reads an atlas and the bank has none.
    """
    correct = bank.only_correct()
    configs = [strategy.atlas for strategy in strategies.values() if strategy.atlas is not None]
    full_index = bank.index(questions) if any(config.source == "neighbors" for config in configs) else None
    networks = {}
    for loss in {config.loss for config in configs if config.source == "mlp"}:
        losses = bank.require_atlas().rows(np.arange(len(bank)), loss)
        networks[loss] = fit_predictor(
            np.asarray(bank.embeddings, np.float32), losses, float(DEQUANTIZE[loss][-1]), seed
        )
    return RetrievalIndex(bank, correct, correct.index(questions), full_index, networks)


VOTERS = 50  # neighbors whose most frequent answer stands for what the question gives away without the image


def same_experts(
    references: Mapping[str, Sequence[str]], samples: Sequence[Sample], neighbors: Sequence[Sequence[str]]
) -> Float[np.ndarray, "B"]:
    """Share of each sample's neighbors that need exactly the experts that the sample needs.

    Args:
        references: the experts that each reference needs, by its id.
        samples: the test samples.
        neighbors: ids of the neighbors of each sample.
    """
    needed = {name: frozenset(experts) for name, experts in references.items()}
    return np.array(
        [
            np.mean([needed[name] == frozenset(sample.experts) for name in names])
            for sample, names in zip(samples, neighbors, strict=True)
        ]
    )


def neighbor_quality(share: Float[np.ndarray, "B"], right: Bool[np.ndarray, "B"]) -> dict[str, Any]:
    """Mean of `same_experts`, and the accuracy where more than half of the neighbors agree (`most`) and elsewhere."""
    quality: dict[str, Any] = {"same_experts": round(float(share.mean()), 6)}
    for name, members in {"most": share > 0.5, "few": share <= 0.5}.items():
        count = int(members.sum())
        quality[name] = {"n": count, "accuracy": round(float(right[members].mean()), 6) if count else None}
    return quality


def _smallest(values: Float[np.ndarray, "N"], k: int) -> list[int]:
    """Positions of the k smallest values, in order; of equal ones the first, as a stable sort of all has them."""
    if k < len(values):
        candidates = np.flatnonzero(values <= np.partition(values, k - 1)[k - 1])
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(values[candidates], kind="stable")][:k].tolist()


def right_without_image(
    embedder: Embedder, references: Sequence[Sample], samples: Sequence[Sample], metric: Metric
) -> Bool[np.ndarray, "B"]:
    """True for samples that are answered correctly by the most frequent answer to the nearest reference questions.

    All reference questions count, also those that the model answers wrongly. Of equally frequent answers the one of the
    nearer reference is taken.
    """
    reference_vectors = embedder.embed([reference.question for reference in references])
    vectors = embedder.embed([sample.question for sample in samples])
    votes = [
        Counter(references[j].answers[0] for j in _smallest(row, VOTERS)) for row in -vectors @ reference_vectors.T
    ]
    answers = [vote.most_common(1)[0][0] for vote in votes]
    return np.array([metric(*pair) >= CORRECT for pair in zip(answers, samples, strict=True)])
