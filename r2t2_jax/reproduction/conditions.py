"""Prepares a model and a bank for the condition of a row: a share of the references, another embedder, uniform weights.

Questions and references are encoded once for all rows; a condition changes only which references are neighbors and
which weights are optimized.

Axis letters: B test samples, K neighbors, L routed layers, E experts, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Answer, Embedder, Features, Params, Port, Query, RoutedModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import PreparedBatch
from r2t2_jax.evaluation.encode import EncodedQuestions
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.setup import open_embedder
from r2t2_jax.method.presets import PAPER
from r2t2_jax.methods import Method
from r2t2_jax.metrics import Metric
from r2t2_jax.reproduction.spec import Condition
from r2t2_jax.retrieval import build_index
from r2t2_jax.retrieval.neighbors import Neighbors, select
from r2t2_jax.routing import Routing, RoutingSpec, leading_experts, uniform


@dataclass(frozen=True)
class LastLayers:
    """A model whose loss has zero gradient with respect to the weights of all but the `last` layers.

    Descent from the router's weights then leaves those weights unchanged, with every optimizer and in every update
    space whose layers are not tied.
    """

    model: RoutedModel
    last: int

    @property
    def spec(self) -> RoutingSpec:
        return self.model.spec

    def answer_loss(
        self, params: Params, features: Features, routing: Routing | None, answer: Answer
    ) -> Float[Array, ""]:
        if routing is not None:
            values = routing.values  # [L, E]
            optimized = jnp.arange(len(values)) >= len(values) - self.last
            routing = replace(routing, values=jnp.where(optimized[:, None], values, jax.lax.stop_gradient(values)))
        return self.model.answer_loss(params, features, routing, answer)

    def generate(
        self, params: Params, features: Features, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        return self.model.generate(params, features, routing, max_new_tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@dataclass(frozen=True)
class ConditionEvaluator:
    """The evaluator of all strategies that share a condition."""

    evaluator: Evaluator
    condition: Condition

    def prepare_batch(self, questions: EncodedQuestions, dataset_indices: Int[np.ndarray, "B"]) -> PreparedBatch:
        """The questions under the condition, with their neighbors.

        Args:
            questions: a block of a test set, encoded and embedded by the model's own embedder.
            dataset_indices: positions of the questions in the test set.

        Raises:
            R2T2Error: the condition requires references of other families, and there are none.
        """
        if self.condition.embedder:
            vectors = load_embedder(self.condition.embedder).embed([sample.question for sample in questions.samples])
            questions = replace(questions, embeddings=vectors)
        queries = restrict_queries(self.evaluator.port.model.spec, questions.queries, self.condition)
        batch = self.evaluator.prepare_batch(replace(questions, queries=queries), dataset_indices)
        if self.condition.other_families or self.condition.same_family:
            return _with_neighbors_by_family(batch, self.condition.same_family)
        return batch


def create_evaluator(
    port: Port, bank: ReferenceBank, methods: Mapping[str, Method], condition: Condition, metric: Metric, seed: int
) -> ConditionEvaluator:
    """The evaluator of some strategies under a condition.

    Args:
        port: the model.
        bank: all of its references, including incorrectly answered ones.
        methods: strategies by label.
        condition: what the strategies work with.
        metric: scores an answer.
        seed: seed of all random choices.

    Raises:
        R2T2Error: as `Evaluator.create`.
    """
    if condition.embedder:
        embedder = load_embedder(condition.embedder)
        port = replace(port, embedder=embedder)
        vectors = embedder.embed([str(record["question"]) for record in bank.records])
        bank = replace(bank, embeddings=vectors, embedder_fingerprint=embedder.fingerprint, folder=None, origin=None)
    if condition.share < 1:
        bank = bank.subsample(max(1, round(condition.share * len(bank))), condition.draw)
    if condition.keep_wrong:
        bank = replace(bank, correct=None)
    if condition.last_layers is not None:
        port = replace(port, model=LastLayers(port.model, condition.last_layers))
    return ConditionEvaluator(Evaluator.create(port, bank, methods, metric, seed), condition)


@cache
def load_embedder(name: str) -> Embedder:
    """An embedder by name, loaded once, with the paper's instruction."""
    return open_embedder(name, PAPER.embedding.instruction)


def restrict_queries(spec: RoutingSpec, queries: Query, condition: Condition) -> Query:
    """The queries with the starting point and the support that the condition requires."""
    if condition.start == "uniform":
        weights = jax.vmap(lambda support: uniform(spec, support))(queries.support)
        queries = replace(queries, routing=weights.astype(queries.routing.dtype))
    if condition.core_experts is not None:
        support = leading_experts(spec, queries.routing, queries.support, condition.core_experts)
        queries = replace(queries, support=support)
    return queries


def _with_neighbors_by_family(batch: PreparedBatch, same: bool) -> PreparedBatch:
    """The batch with neighbors chosen among the references of the question's family, or of the other families.

    A family that has fewer references than a neighborhood gets neighbors among all references.
    """
    questions, index = batch.questions, batch.neighbors.index
    assert index is not None
    families = np.array([sample.category for sample in questions.samples])
    reference_families = np.array([str(record.get("category", "")) for record in index.correct.records])
    neighborhoods: dict[str, Neighbors | None] = {}
    for name, method in batch.strategies.items():
        if method.selector is None:
            neighborhoods[name] = None
            continue
        parts, rows = [], []
        for family in np.unique(families):
            samples = np.flatnonzero(families == family)
            references = np.flatnonzero((reference_families == family) == same)
            if same and len(references) < (getattr(method.selector, "k", None) or 1):
                references = np.arange(len(reference_families))
            if not len(references):
                raise R2T2Error(f"there is no reference of another family than {family!r}")
            family_index = build_index(np.asarray(index.correct.embeddings)[references])
            neighbors = select(method.selector, family_index, questions.embeddings[samples], batch.keys[samples])
            parts.append(replace(neighbors, indices=jnp.asarray(references)[neighbors.indices]))
            rows.append(samples)
        order = np.argsort(np.concatenate(rows))
        neighborhoods[name] = jax.tree.map(lambda *leaves, order=order: jnp.concatenate(leaves)[order], *parts)
    return replace(batch, neighbors=replace(batch.neighbors, neighborhoods=neighborhoods))
