"""Sets up an evaluation: everything that is computed once for a model, a bank and some strategies.

`Evaluator.prepare_batch` retrieves the neighbors of encoded samples, `batch.evaluate_batch` does the rest. `evaluate`
runs strategies on a whole test set in memory.

Axis letters: B test samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import Atlas
from r2t2_jax.contract import Params, Port, default_vmap_size
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import PreparedBatch, evaluate_batch, reads_permuted_labels
from r2t2_jax.evaluation.encode import BATCH, EncodedQuestions
from r2t2_jax.evaluation.feature_cache import on_port
from r2t2_jax.evaluation.records import BatchResult
from r2t2_jax.evaluation.references import BatchNeighbors, RetrievalIndex, build_retrieval_index, permuted_labels
from r2t2_jax.method.needs import REFERENCE_NEEDS, Need
from r2t2_jax.method.rerouting import canonicalize
from r2t2_jax.method.strategies import Strategy, for_points
from r2t2_jax.methods import Method
from r2t2_jax.metrics import Metric
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.rivals.base import reads_references
from r2t2_jax.rivals.knn_moe import hidden_keys, open_memory
from r2t2_jax.rivals.trained import route_by, train_gate
from r2t2_jax.runtime.batching import threads_at_a_time, worker_threads
from r2t2_jax.runtime.progress import progress_bar
from r2t2_jax.runtime.pytrees import tree_bytes


@dataclass(frozen=True)
class Evaluator:
    """Strategies with everything that is computed once for a model and a bank; `create` builds it.

    Args:
        port: the model.
        strategies: by the name under which they are reported.
        index: the references, ready for retrieval; `None` without a bank.
        metric: scores an answer; `None` where the answers are not known, every score is then NaN.
        seed: of all random draws.
        finetuned_params: the model's parameters with its gate fine-tuned on the bank, if a strategy needs them.
        vmap_size: samples that the device computes together.
    """

    port: Port
    strategies: Mapping[str, Method]
    index: RetrievalIndex | None
    metric: Metric | None
    seed: int = 0
    finetuned_params: Params | None = None
    vmap_size: int = 1

    @classmethod
    def create(
        cls,
        port: Port,
        bank: ReferenceBank | None,
        strategies: Mapping[str, Method],
        metric: Metric | None,
        seed: int = 0,
        vmap_size: int | None = None,
        questions: int = 0,
    ) -> Evaluator:
        """Check that model and bank match, build the retrieval index and train what strategies need.

        Args:
            port: the model.
            bank: references of this model; strategies that read an atlas also use those answered wrongly. `None` if no
                strategy reads references.
            strategies: by the name under which they are reported.
            metric: scores an answer; `None` where the answers are not known.
            seed: of all random draws.
            vmap_size: samples that the device computes together; `None` for the model's default.
            questions: number of questions that it will answer, if known: for many, an approximate index may pay.

        Returns:
            An evaluator for these strategies, which serves any number of batches.

        Raises:
            R2T2Error: the bank belongs to another model or embedder, a strategy needs more neighbors than the bank has
                references, or something that the model does not offer.
        """
        vmap_size = default_vmap_size(port.model) if vmap_size is None else vmap_size
        if bank is None:
            _check_no_references(strategies)
            return cls(port, strategies, None, metric, seed, None, vmap_size)
        _check_fingerprints(port, bank)
        strategies = in_space_of_atlas(strategies, bank.atlas)
        index = build_retrieval_index(bank, strategies, seed, questions)
        index = replace(index, memory=open_memory(port, index.correct, strategies, seed))
        needs = [strategy.needs for strategy in strategies.values() if isinstance(strategy, Strategy)]
        finetuned = None
        if any(Need.FINETUNED_ROUTING in each for each in needs):
            finetuned = train_gate(port, *bank.samples(np.arange(len(bank))), seed)
        return cls(port, strategies, index, metric, seed, finetuned, vmap_size)

    def to_device(self, port: Port) -> Evaluator:
        """The same evaluator for a copy of the model on other devices."""
        index, finetuned = self.index, self.finetuned_params
        if index is not None:
            bank = on_port(index.bank, port)
            index = replace(index, bank=bank, correct=bank.only_correct())
        if finetuned is not None:
            finetuned = jax.device_put(finetuned, jax.tree.map(lambda leaf: leaf.sharding, port.params))
        return replace(self, port=port, index=index, finetuned_params=finetuned)

    def prepare_batch(
        self, questions: EncodedQuestions, dataset_indices: Int[np.ndarray, "B"] | None = None
    ) -> PreparedBatch:
        """Retrieve the neighbors of every sample.

        Args:
            questions: a batch, or a whole test set.
            dataset_indices: positions of the samples in their test set, 0 to B - 1 by default. What is drawn for a
                sample depends on its position and the seed only.

        Returns:
            The samples with the neighbors of each strategy.

        Raises:
            R2T2Error: a strategy needs more neighbors than the bank has references.
        """
        if dataset_indices is None:
            dataset_indices = np.arange(len(questions.samples))
        keys, queries = sample_keys(self.seed, dataset_indices), questions.queries
        neighbors = BatchNeighbors.none(self.strategies)
        if self.index is not None:
            hidden = None if self.index.memory is None else hidden_keys(self.port, queries.features)
            size = tree_bytes(queries.features) // len(questions.samples)
            neighbors = self.index.retrieve(self.strategies, questions.embeddings, keys, hidden, size)
        if self.finetuned_params is not None:
            routed = route_by(self.finetuned_params, queries.features, model=self.port.model)
            finetuned: Any = np.asarray(routed)  # of which each batch takes some rows
            queries = replace(queries, finetuned_routing=finetuned)
        labels: list[str] = []
        if self.index is not None and any(reads_permuted_labels(each) for each in self.strategies.values()):
            labels = permuted_labels(self.index.bank.records, questions.samples, dataset_indices, self.seed)
            answers = self.port.processor.answer_ids(labels)
            queries = replace(queries, permuted_answer=jax.tree.map(np.asarray, answers))
        return PreparedBatch(
            port=self.port,
            questions=questions,
            queries=queries,
            metric=self.metric,
            keys=keys,
            neighbors=neighbors,
            dataset_indices=dataset_indices,
            seed=self.seed,
            vmap_size=self.vmap_size,
            permuted_labels=labels,
        )


def evaluate(
    port: Port,
    bank: ReferenceBank,
    questions: EncodedQuestions,
    strategies: Mapping[str, Method],
    metric: Metric,
    seed: int = 0,
    batch_size: int = BATCH,
) -> list[BatchResult]:
    """Run every strategy on a test set, several strategies at a time, and keep all results in memory.

    Args:
        port, bank, strategies, metric, seed: as `Evaluator.create` takes them.
        questions: the test set, encoded.
        batch_size: samples that the device takes at a time.

    Returns:
        One result per strategy, in their order.

    Raises:
        R2T2Error: as `Evaluator.create` and `evaluate_batch`.
    """
    batch, n = Evaluator.create(port, bank, strategies, metric, seed).prepare_batch(questions), len(questions.samples)
    with progress_bar(len(strategies) * n, f"{port.name}: {len(strategies)} strategies") as progress:

        def run(name: str) -> BatchResult:
            (result,) = evaluate_batch(batch, [name], chunk_size=min(batch_size, n), progress=progress)
            return replace(result, seconds_per_sample=questions.seconds_per_sample + result.seconds_per_sample)

        with worker_threads(threads_at_a_time()) as pool:
            results = {result.name: result for result in pool.map(run, order_by_program(strategies))}
    return [results[name] for name in strategies]


def order_by_program(strategies: Mapping[str, Method]) -> list[str]:
    """Names with the first strategy of each compiled program in front: no two threads then compile the same program."""
    first: dict[Any, str] = {}
    for name, strategy in strategies.items():
        program = canonicalize(strategy) if isinstance(strategy, Strategy) else strategy
        first.setdefault(jax.tree.structure(program), name)
    return [*first.values(), *(name for name in strategies if name not in first.values())]


def _check_fingerprints(port: Port, bank: ReferenceBank) -> None:
    for what, made_with, ours in (
        ("model", bank.model_fingerprint, port.fingerprint),
        ("embedder", bank.embedder_fingerprint, port.embedder.fingerprint),
    ):
        if made_with != ours:
            raise R2T2Error(f"the bank was made with {what} {made_with!r}, this is {what} {ours!r}: collect it again")
    if bank.atlas is not None:
        bank.atlas.check(port.fingerprint, port.model.spec)


def in_space_of_atlas(strategies: Mapping[str, Method], atlas: Atlas | None) -> dict[str, Method]:
    """The strategies for a bank with this atlas, which they read as its kind of points requires (`for_points`).

    Raises:
        R2T2Error: a baseline sets the atlas's points as routing weights, and they are shifts or mixtures.
    """
    if atlas is None or atlas.mode == "replace":
        return dict(strategies)
    adapted = dict(strategies)
    for name, strategy in strategies.items():
        if isinstance(strategy, Strategy):
            adapted[name] = for_points(strategy, atlas.mode)
        elif strategy.atlas is not None:
            kind = f"{atlas.mode}s"
            raise R2T2Error(f"{name} sets points of the loss atlas as routing weights; those of this bank are {kind}")
    return adapted


def _check_no_references(strategies: Mapping[str, Method]) -> None:
    for name, strategy in strategies.items():
        reads = strategy.needs & REFERENCE_NEEDS if isinstance(strategy, Strategy) else reads_references(strategy)
        if reads:
            raise R2T2Error(f"{name} reads references: give a bank")
