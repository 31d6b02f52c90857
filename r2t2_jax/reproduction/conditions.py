"""A subject as a row wants it: with a share of the references, another embedder, uniform weights in place of r0.

Questions and references are encoded once for all rows; what differs here is who speaks for whom.

Axis letters: B test samples, K neighbours, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Answer, Embedder, Features, Params, Port, Query, RoutedModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import PreparedBatch
from r2t2_jax.evaluation.encode import EncodedQuestions
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.methods import Method
from r2t2_jax.metrics import Metric
from r2t2_jax.reproduction.spec import Condition
from r2t2_jax.retrieval import build_index
from r2t2_jax.retrieval.hashed_bag_of_words import question_embedder
from r2t2_jax.retrieval.neighbors import Neighbors, select
from r2t2_jax.routing import Routing, RoutingSpec, by_group, uniform


@dataclass(frozen=True)
class LastLayers:
    """The model itself, but for the loss: it has no slope with respect to the weights of the first layers.

    Descent from the router's weights then leaves those where they are, under every optimiser and in every space whose
    layers are not tied.
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
            moves = jnp.arange(len(values)) >= len(values) - self.last
            held = jnp.where(moves[:, None], values, jax.lax.stop_gradient(values))
            routing = replace(routing, values=held)
        return self.model.answer_loss(params, features, routing, answer)

    def generate(
        self, params: Params, features: Features, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        return self.model.generate(params, features, routing, max_new_tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@dataclass(frozen=True)
class Bench:
    """Strategies with all that is done once for what they are given."""

    evaluator: Evaluator
    given: Condition

    def prepare_batch(self, questions: EncodedQuestions, dataset_indices: Int[np.ndarray, "B"]) -> PreparedBatch:
        """The strategies ready to answer some questions.

        Args:
            questions: a block of a test set, encoded, embedded by the model's own embedder.
            dataset_indices: positions of the questions in the test set.

        Raises:
            R2T2Error: references of other families are wanted and there are none.
        """
        if self.given.embedder:
            vectors = embedder_of(self.given.embedder).embed([sample.question for sample in questions.samples])
            questions = replace(questions, embeddings=vectors)
        queries = given_queries(self.evaluator.port.model.spec, questions.queries, self.given)
        batch = self.evaluator.prepare_batch(replace(questions, queries=queries), dataset_indices)
        return _with_foreign_neighbors(batch) if self.given.foreign else batch


def open_bench(
    port: Port, bank: ReferenceBank, methods: Mapping[str, Method], given: Condition, metric: Metric, seed: int
) -> Bench:
    """Do what is done once.

    Args:
        port: the model.
        bank: all of its references, those answered wrongly too.
        methods: strategies by label.
        given: what they work with.
        metric: scores an answer.
        seed: of everything drawn.

    Raises:
        R2T2Error: as `Evaluator.create`.
    """
    if given.embedder:
        embedder = embedder_of(given.embedder)
        port = replace(port, embedder=embedder)
        vectors = embedder.embed([str(record["question"]) for record in bank.records])
        bank = replace(bank, embeddings=vectors, embedder_fingerprint=embedder.fingerprint, folder=None, origin=None)
    if given.share < 1:
        bank = bank.subsample(max(1, round(given.share * len(bank))), given.draw)
    if given.keep_wrong:
        bank = replace(bank, correct=None)
    if given.last_layers is not None:
        port = replace(port, model=LastLayers(port.model, given.last_layers))
    return Bench(Evaluator.create(port, bank, methods, metric, seed), given)


@cache
def embedder_of(name: str) -> Embedder:
    """An embedder by name, loaded once."""
    return question_embedder(name)


def given_queries(spec: RoutingSpec, queries: Query, given: Condition) -> Query:
    """Queries that start elsewhere, or may use the core experts alone."""
    if given.start == "uniform":
        even = jax.vmap(lambda support: uniform(spec, support))(queries.support)
        queries = replace(queries, routing=even.astype(queries.routing.dtype))
    if given.core_experts is not None:
        queries = replace(queries, support=_core(spec, queries, given.core_experts))
    return queries


def _core(spec: RoutingSpec, queries: Query, most: int) -> Bool[Array, "B L E"]:
    """The live experts with the largest router weights, so many of each group."""

    def largest(weights: Array, live: Array) -> Array:
        ranked = jnp.argsort(jnp.argsort(-jnp.where(live, weights, -jnp.inf), axis=-1), axis=-1)
        return live & (ranked < most)

    return by_group(spec, largest, queries.routing, queries.support)


def _with_foreign_neighbors(batch: PreparedBatch) -> PreparedBatch:
    """The batch with neighbors of every question among the references of other families than its own."""
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
            mine, others = np.flatnonzero(families == family), np.flatnonzero(reference_families != family)
            if not len(others):
                raise R2T2Error(f"there is no reference of another family than {family!r}")
            foreign = build_index(np.asarray(index.correct.embeddings)[others])
            neighbors = select(method.selector, foreign, questions.embeddings[mine], batch.keys[mine])
            parts.append(replace(neighbors, indices=jnp.asarray(others)[neighbors.indices]))
            rows.append(mine)
        order = np.argsort(np.concatenate(rows))
        neighborhoods[name] = jax.tree.map(lambda *leaves, order=order: jnp.concatenate(leaves)[order], *parts)
    return replace(batch, neighbors=replace(batch.neighbors, neighborhoods=neighborhoods))
