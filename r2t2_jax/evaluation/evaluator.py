"""Run strategies over a test set: neighbours, re-routing, answers, scores.

Axis letters: B test samples, K neighbours, L routed layers, E experts, P points of a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Params, Port, Query, References, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.encode import BATCH, EncodedQuestions
from r2t2_jax.evaluation.feature_cache import on_port
from r2t2_jax.evaluation.records import SampleResult
from r2t2_jax.evaluation.references import BatchNeighbors, RetrievalIndex, open_library
from r2t2_jax.method.forward import generate_at_path, generate_batch, losses_at_path
from r2t2_jax.method.rerouting import canonicalize, reroute_batch
from r2t2_jax.method.search.kernel_regression import FixedRouting
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import Method
from r2t2_jax.metrics import Metric
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.rivals.augmentations import encode_augmentations
from r2t2_jax.rivals.base import Asked, Baseline
from r2t2_jax.rivals.knn_moe import hidden_keys, open_memory
from r2t2_jax.rivals.trained import route_by, train_gate
from r2t2_jax.runtime.batching import Rows, map_batches, progress_bar, take, threads_at_a_time
from r2t2_jax.runtime.threads import worker_threads


@dataclass(frozen=True)
class Evaluation:
    """Strategies about to be run on a test set: everybody's neighbours are found, nothing is re-routed yet.

    `places` are those of the samples in the test set, on which with `seed` depends what is drawn for them. `vmap_size`
    samples are re-routed and answered together.
    """

    port: Port
    questions: EncodedQuestions
    queries: Query
    metric: Metric
    keys: Key[Array, "B"]
    lookup: BatchNeighbors
    places: Int[np.ndarray, "B"]
    seed: int
    vmap_size: int = 1

    @property
    def strategies(self) -> Mapping[str, Method]:
        """By the name under which they are reported."""
        return self.lookup.strategies

    def answer(self, name: str, rows: Rows) -> dict[str, Any]:
        """What a strategy finds for some of the samples, and the tokens they are answered with."""
        strategy, queries = self.strategies[name], take(self.queries, rows)
        references = self.lookup.references(name, rows)
        weighted = references.weights is not None and strategy.selector is not None
        weights = references.weights if weighted else np.zeros((len(rows), 0), np.float32)
        if not isinstance(strategy, Strategy):
            return self._answer_otherwise(name, strategy, queries, references, rows) | {"kernel_weights": weights}
        if strategy.augmentations is not None:
            queries = self._with_pictures(strategy, queries, rows)
        found = reroute_batch(
            strategy, self.port.model, self.port.params, queries, references, self.keys[rows], vmap_size=self.vmap_size
        )
        return {
            "tokens": generate_batch(self.port, queries.features, found.routing, self.vmap_size),
            "weights": found.weights,
            "path": found.path,
            "losses": found.losses,
            "kernel_weights": weights,
            "used_fallback": found.used_fallback,
            "evaluations": np.full(len(rows), found.evaluations),
        }

    def _samples(self, rows: Rows) -> list[Sample]:
        return [self.questions.samples[i] for i in rows.tolist()]

    def _answer_otherwise(
        self, name: str, baseline: Baseline, queries: Query, references: References, rows: Rows
    ) -> dict[str, Any]:
        records = self.lookup.bank.records
        near = [[records[j] for j in row] for row in self.lookup.neighbors(name, rows).tolist()]
        return baseline.answer(Asked(self.port, self._samples(rows), queries, references, near, self.keys[rows]))

    def _with_pictures(self, strategy: Strategy, queries: Query, rows: Rows) -> Query:
        """The queries with features of the changed copies of the image which the strategy looks at."""
        which, count = strategy.augmentations, getattr(strategy.objective, "views", 1)
        assert which is not None
        drawn = encode_augmentations(self.port, self._samples(rows), self.places[rows], which, count, self.seed)
        return replace(queries, **{which: drawn})

    def answer_along(self, name: str, path: Float[Array, "B P L E"], rows: Rows) -> dict[str, Any]:
        """The tokens that some samples would be answered with at each point of their paths, and their own loss there.

        Raises:
            R2T2Error: the strategy shifts the gate's logits; its path, of weights in effect, does not tell how far.
        """
        strategy = self.strategies[name]
        if isinstance(strategy, Strategy) and strategy.space.kind == "shift":
            raise R2T2Error(f"{name} moves in the shift space: its steps cannot be answered one by one")
        queries, model = take(self.questions.queries, rows), self.port.model
        found = {"step_tokens": generate_at_path(self.port, queries.features, path, self.vmap_size)}
        if queries.answer is not None:
            found["own_losses"] = losses_at_path(self.port.params, queries.features, queries.answer, path, model=model)
        return found

    def outcome(
        self, name: str, found: dict[str, Any], start: int = 0, seconds_per_sample: float = 0.0
    ) -> SampleResult:
        """What was found for the samples from `start` on, in words and scored."""
        decode, n = self.port.processor.decode, len(found["weights"])
        samples = self.questions.samples[start : start + n]
        predictions = list(found["texts"]) if "texts" in found else decode(found["tokens"])
        along = [decode(tokens) for tokens in found.get("step_tokens", ())] or [[] for _ in samples]
        pairs = list(zip(samples, predictions, along, strict=True))
        return SampleResult(
            name=name,
            predictions=predictions,
            scores=np.array([self.metric(prediction, sample) for sample, prediction, _ in pairs]),
            step_predictions=along,
            step_scores=np.array([[self.metric(step, sample) for step in steps] for sample, _, steps in pairs]),
            own_losses=np.asarray(found.get("own_losses", np.zeros((n, 0), np.float32))),
            neighbors=self.lookup.neighbors(name, np.arange(start, start + n)),
            similarities=self.lookup.similarities(name, np.arange(start, start + n)),
            evaluations=int(found["evaluations"][0]),
            seconds_per_sample=seconds_per_sample,
            **{key: found[key] for key in ("weights", "path", "losses", "kernel_weights", "used_fallback")},
        )


@dataclass(frozen=True)
class Setup:
    """What is done once for a model, a bank and some strategies, whatever is asked afterwards.

    `tuned` are the model's parameters with its gate fine-tuned on the bank, where a strategy compares with that.
    `vmap_size` is how many samples are computed together.
    """

    port: Port
    library: RetrievalIndex
    metric: Metric
    seed: int
    tuned: Params | None
    vmap_size: int = 1

    def on(self, port: Port) -> Setup:
        """The same for the same model on other devices."""
        bank = on_port(self.library.bank, port)
        library = replace(self.library, bank=bank, correct=bank.only_correct())
        tuned = self.tuned
        if tuned is not None:
            tuned = jax.device_put(tuned, jax.tree.map(lambda leaf: leaf.sharding, port.params))
        return replace(self, port=port, library=library, tuned=tuned)

    def asked(self, questions: EncodedQuestions, places: Int[np.ndarray, "B"]) -> Evaluation:
        """Find the neighbours of some questions.

        Args:
            questions: all of a test set, or a batch.
            places: where in the test set they stand; a sample's draws depend on its place and the seed alone.

        Raises:
            R2T2Error: a strategy asks for more neighbours than the bank has references.
        """
        keys = sample_keys(self.seed, places)
        queries = questions.queries
        read = None if self.library.memory is None else hidden_keys(self.port, queries.features)
        lookup = self.library.look_up(questions.embeddings, keys, read)
        if self.tuned is not None:
            queries = replace(
                queries, finetuned_routing=jnp.asarray(route_by(self.tuned, queries.features, model=self.port.model))
            )
        return Evaluation(self.port, questions, queries, self.metric, keys, lookup, places, self.seed, self.vmap_size)


def set_up(port: Port, bank: ReferenceBank, strategies: Mapping[str, Method], metric: Metric, seed: int = 0) -> Setup:
    """Fit what strategies need; what does not fit is refused here, before hours of work.

    Arguments and errors are those of `prepare`.
    """
    for what, theirs, ours in (
        ("model", bank.model_fingerprint, port.fingerprint),
        ("embedder", bank.embedder_fingerprint, port.embedder.fingerprint),
    ):
        if theirs != ours:
            raise R2T2Error(f"the bank was made with {what} {theirs!r}, this is {what} {ours!r}: collect it again")
    if bank.atlas is not None:
        bank.atlas.check(port.fingerprint, port.model.spec)
    library = open_library(bank, strategies, seed)
    memory = open_memory(port, library.correct, strategies, seed)
    library = replace(library, memory=memory)
    tuned = None
    if any(isinstance(one.search, FixedRouting) and one.search.which == "tuned" for one in _searching(strategies)):
        tuned = train_gate(port, *bank.samples(np.arange(len(bank))), seed)
    return Setup(port, library, metric, seed, tuned)


def prepare(
    port: Port,
    bank: ReferenceBank,
    questions: EncodedQuestions,
    strategies: Mapping[str, Method],
    metric: Metric,
    seed: int = 0,
) -> Evaluation:
    """Find everybody's neighbours, fit what strategies need; what does not fit is refused here, before hours of work.

    Args:
        port: the model.
        bank: references of this very model; those answered wrongly serve the strategies that read an atlas.
        questions: the test set.
        strategies: by the name under which they are reported.
        metric: scores an answer.
        seed: of everything drawn; a sample's draw depends on its place in the test set, not on its batch.

    Raises:
        R2T2Error: the bank is another model's, a strategy asks for more neighbours than it has references, or for what
            the model does not tell.
    """
    return set_up(port, bank, strategies, metric, seed).asked(questions, np.arange(len(questions.samples)))


def _searching(strategies: Mapping[str, Method]) -> list[Strategy]:
    return [one for one in strategies.values() if isinstance(one, Strategy)]


def evaluate(
    port: Port,
    bank: ReferenceBank,
    questions: EncodedQuestions,
    strategies: Mapping[str, Method],
    metric: Metric,
    seed: int = 0,
    batch_size: int = BATCH,
) -> list[SampleResult]:
    """Run every strategy on every question, each question from its own router's weights, and keep all in memory.

    Arguments and errors are those of `prepare`, and a strategy may ask for what bank or model do not offer;
    `batch_size` samples go together. `recording.record` does the same on a run that survives.
    """
    evaluation = prepare(port, bank, questions, strategies, metric, seed)
    n = len(questions.samples)
    with progress_bar(len(strategies) * n, f"{port.name}: {len(strategies)} strategies") as progress:

        def run(name: str) -> tuple[str, SampleResult]:
            found, seconds = map_batches(partial(evaluation.answer, name), n, batch_size, progress)
            return name, evaluation.outcome(name, found, seconds_per_sample=questions.seconds_per_sample + seconds)

        with worker_threads(threads_at_a_time()) as pool:
            outcomes = dict(pool.map(run, in_order_of_programs(strategies)))
    return [outcomes[name] for name in strategies]


def in_order_of_programs(strategies: Mapping[str, Method]) -> list[str]:
    """One strategy of each program first: no two workers then compile the same one side by side."""
    first: dict[Any, str] = {}
    for name, strategy in strategies.items():
        program = canonicalize(strategy) if isinstance(strategy, Strategy) else strategy
        first.setdefault(jax.tree.structure(program), name)
    return [*first.values(), *(name for name in strategies if name not in first.values())]
