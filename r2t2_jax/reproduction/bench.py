"""A subject as a row wants it: with a share of the references, another embedder, uniform weights in place of r0.

Questions and references are encoded once for all rows; what differs here is who speaks for whom.

Axis letters: B test samples, K neighbours, L routed layers, E experts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Embedder, Port, Query
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.evaluate import Evaluation, prepare
from r2t2_jax.evaluation.lookup import Method
from r2t2_jax.evaluation.questions import Questions
from r2t2_jax.hashed_words import question_embedder
from r2t2_jax.index import build_index
from r2t2_jax.metrics import Metric
from r2t2_jax.neighbors import Neighbors, select
from r2t2_jax.reproduction.trials import Given
from r2t2_jax.routing import RoutingSpec, by_group, uniform


def bench(
    port: Port,
    bank: ReferenceBank,
    questions: Questions,
    methods: Mapping[str, Method],
    given: Given,
    metric: Metric,
    seed: int,
) -> Evaluation:
    """Strategies ready to run on what they are given.

    Args:
        port: the model.
        bank: all of its references, those answered wrongly too.
        questions: the test set, encoded.
        methods: strategies by label.
        given: what they work with.
        metric: scores an answer.
        seed: of everything drawn.

    Raises:
        R2T2Error: as `evaluate.prepare`; or references of other families are wanted and there are none.
    """
    if given.embedder:
        embedder = embedder_of(given.embedder)
        port = dataclasses.replace(port, embedder=embedder)
        bank = dataclasses.replace(bank, embeddings=_bank_embeddings(bank, embedder), folder=None, origin=None)
        bank = dataclasses.replace(bank, embedder_fingerprint=embedder.fingerprint)
        asked = embedder.embed([sample.question for sample in questions.samples])
        questions = dataclasses.replace(questions, embeddings=asked)
    if given.share < 1:
        bank = bank.subsample(max(1, round(given.share * len(bank))), given.draw)
    if given.keep_wrong:
        bank = dataclasses.replace(bank, correct=None)
    questions = dataclasses.replace(questions, queries=given_queries(port.model.spec, questions.queries, given))
    evaluation = prepare(port, bank, questions, methods, metric, seed)
    return _with_foreign_neighbors(evaluation) if given.foreign else evaluation


@cache
def embedder_of(name: str) -> Embedder:
    """An embedder by name, loaded once."""
    return question_embedder(name)


def _bank_embeddings(bank: ReferenceBank, embedder: Embedder) -> Float[np.ndarray, "N M"]:
    return embedder.embed([str(record["question"]) for record in bank.records])


def given_queries(spec: RoutingSpec, queries: Query, given: Given) -> Query:
    """Queries that start elsewhere, or may use the core experts alone."""
    if given.start == "uniform":
        even = jax.vmap(lambda support: uniform(spec, support))(queries.support)
        queries = dataclasses.replace(queries, routing=even.astype(queries.routing.dtype))
    if given.core_experts is not None:
        queries = dataclasses.replace(queries, support=_core(spec, queries, given.core_experts))
    return queries


def _core(spec: RoutingSpec, queries: Query, most: int) -> Bool[Array, "B L E"]:
    """The live experts with the largest router weights, so many of each group."""

    def largest(weights: Array, live: Array) -> Array:
        ranked = jnp.argsort(jnp.argsort(-jnp.where(live, weights, -jnp.inf), axis=-1), axis=-1)
        return live & (ranked < most)

    return by_group(spec, largest, queries.routing, queries.support)


def _with_foreign_neighbors(evaluation: Evaluation) -> Evaluation:
    """Neighbours for every question among the references of other families than its own."""
    lookup, questions = evaluation.lookup, evaluation.questions
    asked = np.array([sample.category for sample in questions.samples])
    families = np.array([str(record.get("category", "")) for record in lookup.correct.records])
    found: dict[str, Neighbors | None] = {}
    for name, method in lookup.strategies.items():
        if method.selector is None:
            found[name] = None
            continue
        parts, rows = [], []
        for family in np.unique(asked):
            mine, others = np.flatnonzero(asked == family), np.flatnonzero(families != family)
            if not len(others):
                raise R2T2Error(f"there is no reference of another family than {family!r}")
            index = build_index(np.asarray(lookup.correct.embeddings)[others])
            near = select(method.selector, index, questions.embeddings[mine], evaluation.keys[mine])
            parts.append(dataclasses.replace(near, indices=jnp.asarray(others)[near.indices]))
            rows.append(mine)
        order = np.argsort(np.concatenate(rows))
        found[name] = jax.tree.map(lambda *leaves, order=order: jnp.concatenate(leaves)[order], *parts)
    return dataclasses.replace(evaluation, lookup=dataclasses.replace(lookup, neighborhoods=found))
