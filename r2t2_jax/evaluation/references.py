"""Who speaks for each test sample, strategy by strategy: neighbours answered correctly, or rows of the loss atlas.

Axis letters: B test samples, K neighbours, N bank size, C references answered correctly, M embedding size, H size of
what the gate reads, G atlas points, L routed layers, E experts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Embedder, References, Sample
from r2t2_jax.evaluation.records import CORRECT
from r2t2_jax.method.search.atlas_points import DEQUANTIZE, AtlasLoss
from r2t2_jax.methods import Method
from r2t2_jax.metrics import Metric
from r2t2_jax.retrieval.neighbors import Neighbors, select
from r2t2_jax.retrieval.protocol import Index
from r2t2_jax.rivals.knn_moe import HiddenStateMemory
from r2t2_jax.rivals.trained import Network, fit_predictor, predict_losses
from r2t2_jax.runtime.batching import Rows, take


@dataclass(frozen=True)
class BatchNeighbors:
    """Neighbourhoods of a test set, found once.

    Args:
        bank: every reference; `correct` are those answered correctly, `numbers` their rows in the bank.
        strategies: by name.
        neighborhoods: for each strategy, its neighbours: rows of the bank where it reads the atlas, else of `correct`.
        guessed: for each test sample the losses at the atlas's points which the network of `atlas_mlp` expects, of
            either kind that is read.
        remembered: for strategies with a memory, by name, the weights that are kept of each of `correct`.
    """

    bank: ReferenceBank
    correct: ReferenceBank
    numbers: Int[np.ndarray, "C"]
    strategies: Mapping[str, Method]
    neighborhoods: Mapping[str, Neighbors | None]
    guessed: Mapping[AtlasLoss, Float[np.ndarray, "B G"]]
    remembered: Mapping[str, Float[np.ndarray, "C L E"]] = field(default_factory=dict)

    def references(self, name: str, rows: Rows) -> References:
        """What a strategy reads for some of the test samples.

        Raises:
            R2T2Error: it reads an atlas and the bank has none.
        """
        strategy, neighbors = self.strategies[name], take(self.neighborhoods[name], rows)
        if strategy.atlas is None:
            found = self.correct.references(neighbors, strategy.kernel)
            if name not in self.remembered:
                return found
            assert neighbors is not None
            return replace(found, routing=jnp.asarray(self.remembered[name][np.asarray(neighbors.indices)]))
        if strategy.atlas.source == "neighbors":
            assert neighbors is not None
            assert strategy.kernel is not None
            return self.bank.atlas_references(neighbors, strategy.kernel, strategy.atlas.loss)
        if strategy.atlas.source == "mlp":
            return self.bank.atlas_references_from(self.guessed[strategy.atlas.loss][rows])
        mean = self.bank.require_atlas().mean(strategy.atlas.loss)
        return self.bank.atlas_references_from(np.repeat(mean[None], len(rows), axis=0))

    def neighbors(self, name: str, rows: Rows) -> Int[np.ndarray, "n K"]:
        """Rows of the bank that speak for some of the test samples; K = 0 for strategies without neighbours."""
        found = self.neighborhoods[name]
        if found is None:
            return np.zeros((len(rows), 0), int)
        indices = np.asarray(found.indices)[rows]
        return indices if self.strategies[name].atlas is not None else self.numbers[indices]

    def similarities(self, name: str, rows: Rows) -> Float[np.ndarray, "n K"]:
        """Dot products of some test samples' embeddings with those of `neighbors`."""
        found = self.neighborhoods[name]
        return np.zeros((len(rows), 0), np.float32) if found is None else np.asarray(found.dots)[rows]


@dataclass(frozen=True)
class RetrievalIndex:
    """A bank ready to be asked: its indices, and what is fitted on its rows once for all questions.

    Args:
        bank: every reference; `correct` are those answered correctly.
        strategies: by name.
        near, everywhere: indices of the correct references and, where a strategy reads the atlas, of all.
        networks: fitted on the atlas where `atlas_mlp` asks for it, one for each kind of loss that is read.
        memory: for strategies that have one.
    """

    bank: ReferenceBank
    correct: ReferenceBank
    strategies: Mapping[str, Method]
    near: Index
    everywhere: Index | None
    networks: Mapping[AtlasLoss, Network]
    memory: HiddenStateMemory | None = None

    def look_up(
        self,
        embeddings: Float[np.ndarray, "B M"],
        keys: Key[Array, "B"],
        read: Float[np.ndarray, "B H"] | None = None,
    ) -> BatchNeighbors:
        """Find everybody's neighbours.

        Args:
            embeddings: of the questions.
            keys: draw the neighbours of the null selectors.
            read: what the gate reads, for strategies with a memory.

        Raises:
            R2T2Error: a strategy asks for more neighbours than there are references.
        """

        def neighbors_of(name: str) -> Neighbors | None:
            if self.memory is not None and read is not None and name in self.memory.routing:
                return self._neighbors_of(self.strategies[name], self.memory.index, read, keys)
            index = self.near if self.strategies[name].atlas is None else self.everywhere
            return self._neighbors_of(self.strategies[name], index, embeddings, keys)

        neighborhoods = {name: neighbors_of(name) for name in self.strategies}
        guessed = {loss: predict_losses(network, embeddings) for loss, network in self.networks.items()}
        numbers = np.flatnonzero(self.bank.right)
        remembered = {} if self.memory is None else self.memory.routing
        return BatchNeighbors(
            bank=self.bank,
            correct=self.correct,
            numbers=numbers,
            strategies=self.strategies,
            neighborhoods=neighborhoods,
            guessed=guessed,
            remembered=remembered,
        )

    @staticmethod
    def _neighbors_of(
        strategy: Method, index: Index | None, embeddings: Float[np.ndarray, "B M"], keys: Key[Array, "B"]
    ) -> Neighbors | None:
        if strategy.selector is None or index is None:
            return None
        return select(strategy.selector, index, embeddings, keys)


def open_library(bank: ReferenceBank, strategies: Mapping[str, Method], seed: int) -> RetrievalIndex:
    """What is done once, whoever is looked up later.

    Raises:
        R2T2Error: a strategy asks for an atlas that is not there.
    """
    correct = bank.only_correct()
    readings = [strategy.atlas for strategy in strategies.values() if strategy.atlas is not None]
    everywhere = bank.index() if any(one.source == "neighbors" for one in readings) else None
    networks = {}
    for loss in {one.loss for one in readings if one.source == "mlp"}:
        known = bank.require_atlas().rows(np.arange(len(bank)), loss)
        networks[loss] = fit_predictor(np.asarray(bank.embeddings), known, float(DEQUANTIZE[loss][-1]), seed)
    return RetrievalIndex(bank, correct, strategies, correct.index(), everywhere, networks)


VOTERS = 50  # neighbours whose commonest answer stands for what the question alone gives away


def same_experts(
    references: Mapping[str, Sequence[str]], samples: Sequence[Sample], neighbors: Sequence[Sequence[str]]
) -> Float[np.ndarray, "B"]:
    """Share of each sample's neighbours that need the very experts it needs.

    Args:
        references: the experts each reference needs, by its id.
        samples: the test samples.
        neighbors: ids of the neighbours of each.
    """
    needed = {name: frozenset(experts) for name, experts in references.items()}
    return np.array(
        [
            np.mean([needed[name] == frozenset(sample.experts) for name in names])
            for sample, names in zip(samples, neighbors, strict=True)
        ]
    )


def by_agreement(share: Float[np.ndarray, "B"], right: Bool[np.ndarray, "B"]) -> dict[str, Any]:
    """Accuracy where most neighbours need the same experts, and where they do not."""
    found: dict[str, Any] = {"same_experts": round(float(share.mean()), 6)}
    for name, members in {"most": share > 0.5, "few": share <= 0.5}.items():
        count = int(members.sum())
        found[name] = {"n": count, "accuracy": round(float(right[members].mean()), 6) if count else None}
    return found


def right_without_image(
    embedder: Embedder, references: Sequence[Sample], samples: Sequence[Sample], metric: Metric
) -> Bool[np.ndarray, "B"]:
    """What a blind reader gets right: the commonest answer to the reference questions most like each question.

    Reference questions count whether or not the model answers them correctly. Ties go to the nearer one's answer.
    """
    known = embedder.embed([reference.question for reference in references])
    asked = embedder.embed([sample.question for sample in samples])
    nearest = np.argsort(-asked @ known.T, axis=1, kind="stable")[:, :VOTERS]
    votes = [Counter(references[j].answers[0] for j in row) for row in nearest.tolist()]
    answers = [vote.most_common(1)[0][0] for vote in votes]
    return np.array([metric(*pair) >= CORRECT for pair in zip(answers, samples, strict=True)])
