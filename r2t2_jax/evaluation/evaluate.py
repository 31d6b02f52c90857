"""Run strategies over a test set: neighbours, re-routing, answers, scores.

Axis letters: B test samples, K neighbours, L routed layers, E experts, P points of a path, Q losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Port, Query
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batches import Rows, map_batches, progress_bar, take, threads_at_a_time, worker_threads
from r2t2_jax.evaluation.collect import CORRECT
from r2t2_jax.evaluation.passes import generate_batch
from r2t2_jax.evaluation.questions import BATCH, Questions
from r2t2_jax.index import ExactIndex
from r2t2_jax.metrics import Metric
from r2t2_jax.neighbors import Neighbors, sample_keys, select
from r2t2_jax.rerouting import program_of, reroute_batch
from r2t2_jax.strategies import Strategy


@dataclass(frozen=True)
class Outcome:
    """What one strategy did to every sample of a test set. `neighbors` and `kernel_weights` have K = 0 without any."""

    name: str
    predictions: list[str]
    scores: Float[np.ndarray, "B"]
    weights: Float[np.ndarray, "B L E"]
    path: Float[np.ndarray, "B P L E"]
    losses: Float[np.ndarray, "B Q"]
    neighbors: Int[np.ndarray, "B K"]
    kernel_weights: Float[np.ndarray, "B K"]
    fell_back: Bool[np.ndarray, "B"]
    evaluations: int
    seconds_per_case: float

    @property
    def right(self) -> Bool[np.ndarray, "B"]:
        """Which samples were answered correctly."""
        return self.scores >= CORRECT


def evaluate(
    port: Port,
    bank: ReferenceBank,
    questions: Questions,
    strategies: Mapping[str, Strategy],
    metric: Metric,
    seed: int = 0,
    batch_size: int = BATCH,
) -> list[Outcome]:
    """Run every strategy on every question, each question from its own router's weights.

    Args:
        port: the model.
        bank: references of this very model.
        questions: the test set.
        strategies: by the name under which they are reported.
        metric: scores an answer.
        seed: of everything drawn; a sample's draw depends on its place in the test set, not on its batch.
        batch_size: samples a batch.

    Raises:
        R2T2Error: the bank is another model's, or a strategy asks for what bank or model do not offer.
    """
    for what, theirs, ours in (
        ("model", bank.model_fingerprint, port.fingerprint),
        ("embedder", bank.embedder_fingerprint, port.embedder.fingerprint),
    ):
        if theirs != ours:
            raise R2T2Error(f"the bank was made with {what} {theirs!r}, this is {what} {ours!r}: collect it again")
    keys = sample_keys(seed, np.arange(len(questions.samples)))
    index = ExactIndex.build(bank.embeddings)
    neighborhoods = {  # all of them first: a k larger than the bank is refused before hours of work
        name: select(strategy.selector, index, questions.embeddings, keys) if strategy.selector else None
        for name, strategy in strategies.items()
    }
    with progress_bar(len(strategies) * len(keys), f"{port.name}: {len(strategies)} strategies") as progress:

        def run(name: str) -> tuple[str, Outcome]:
            strategy, neighbors = strategies[name], neighborhoods[name]
            found, seconds = map_batches(
                partial(_answer, port, bank, questions.queries, strategy, neighbors, keys),
                len(keys),
                batch_size,
                progress,
            )
            return name, _outcome(name, port, questions, neighbors, found, metric, seconds)

        with worker_threads(threads_at_a_time()) as pool:
            outcomes = dict(pool.map(run, _in_order_of_programs(strategies)))
    return [outcomes[name] for name in strategies]


def _in_order_of_programs(strategies: Mapping[str, Strategy]) -> list[str]:
    """One strategy of each program first: no two workers then compile the same one side by side."""
    first: dict[Any, str] = {}
    for name, strategy in strategies.items():
        first.setdefault(jax.tree.structure(program_of(strategy)), name)
    return [*first.values(), *(name for name in strategies if name not in first.values())]


def _answer(
    port: Port,
    bank: ReferenceBank,
    queries: Query,
    strategy: Strategy,
    neighbors: Neighbors | None,
    keys: Key[Array, "B"],
    rows: Rows,
) -> dict[str, Any]:
    """What a strategy finds for some of the samples, and the tokens they are answered with."""
    queries = take(queries, rows)
    references = bank.references(take(neighbors, rows), strategy.kernel)
    found = reroute_batch(strategy, port.model, port.params, queries, references, keys[rows])
    nothing = np.zeros((len(rows), 0), np.float32)
    return {
        "tokens": generate_batch(port, queries.features, found.routing),
        "weights": found.weights,
        "path": found.path,
        "losses": found.losses,
        "kernel_weights": nothing if references.weights is None else references.weights,
        "fell_back": found.fell_back,
        "evaluations": np.full(len(rows), found.evaluations),
    }


def _outcome(
    name: str,
    port: Port,
    questions: Questions,
    neighbors: Neighbors | None,
    found: dict[str, Any],
    metric: Metric,
    seconds: float,
) -> Outcome:
    predictions = port.processor.decode(found.pop("tokens"))
    scores = [metric(prediction, sample) for prediction, sample in zip(predictions, questions.samples, strict=True)]
    return Outcome(
        name=name,
        predictions=predictions,
        scores=np.array(scores),
        neighbors=np.zeros((len(scores), 0), int) if neighbors is None else np.asarray(neighbors.indices),
        evaluations=int(found.pop("evaluations")[0]),
        seconds_per_case=questions.seconds_per_case + seconds,
        **found,
    )


def rows(port: Port, bank: ReferenceBank, questions: Questions, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """One record for each strategy and sample. Arrays are flat: `path` is P times L times E numbers."""
    records = []
    for outcome in outcomes:
        for i, sample in enumerate(questions.samples):
            records.append(
                {
                    "model": port.name,
                    "strategy": outcome.name,
                    "id": sample.id,
                    "category": sample.category,
                    "question": sample.question,
                    "answers": list(sample.answers),
                    "prediction": outcome.predictions[i],
                    "score": outcome.scores[i],
                    "right": bool(outcome.right[i]),
                    "router_weights": questions.queries.routing[i].ravel(),
                    "weights": outcome.weights[i].ravel(),
                    "path": outcome.path[i].ravel(),
                    "losses": outcome.losses[i],
                    "neighbors": [bank.records[j]["id"] for j in outcome.neighbors[i]],
                    "kernel_weights": outcome.kernel_weights[i],
                    "fell_back": bool(outcome.fell_back[i]),
                    "evaluations": outcome.evaluations,
                }
            )
    return records
