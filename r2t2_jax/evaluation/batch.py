"""Evaluates strategies on a batch of test samples. Every command that evaluates strategies calls `evaluate_batch`.

    evaluator = Evaluator.create(port, bank, strategies, metric)  # once for a model, a bank and some strategies
    batch = evaluator.prepare_batch(encode_questions(port, samples))  # retrieves the neighbors of every sample
    results = evaluate_batch(batch)  # re-routes, generates and scores: one result per strategy

Axis letters: B test samples, K neighbors, L routed layers, E experts, P points of a path, n selected samples,
A answer tokens.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from tqdm import tqdm

from r2t2_jax.contract import Port, Query, References, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.encode import EncodedQuestions
from r2t2_jax.evaluation.records import BatchResult
from r2t2_jax.evaluation.references import BatchNeighbors
from r2t2_jax.method.forward import generate_at_path, generate_batch, losses_at_path
from r2t2_jax.method.needs import Need
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import Method
from r2t2_jax.metrics import Metric
from r2t2_jax.rivals.augmentations import encode_augmentations
from r2t2_jax.rivals.base import Baseline, BaselineBatch
from r2t2_jax.runtime.batching import Rows, run_batch, take
from r2t2_jax.runtime.checks import check_new_weights


@dataclass(frozen=True)
class PreparedBatch:
    """Encoded samples with the neighbors of each, before any re-routing.

    Args:
        port: the model.
        questions: the samples, encoded.
        queries: what strategies read of each sample: `questions.queries`, and the fine-tuned gate's routing if needed.
        metric: scores an answer; `None` leaves every score NaN.
        keys: one PRNG key per sample.
        neighbors: of every sample, by strategy.
        dataset_indices: positions of the samples in their test set.
        seed: of all random draws.
        vmap_size: samples that the device computes together.
        permuted_labels: the label of another question for each sample, if a strategy reads them.
    """

    port: Port
    questions: EncodedQuestions
    queries: Query
    metric: Metric | None
    keys: Key[Array, "B"]
    neighbors: BatchNeighbors
    dataset_indices: Int[np.ndarray, "B"]
    seed: int
    vmap_size: int = 1
    permuted_labels: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.questions.samples)

    @property
    def strategies(self) -> Mapping[str, Method]:
        """The strategies, by the name under which they are reported."""
        return self.neighbors.strategies

    def share_features(self, names: Sequence[str], rows: Rows) -> PreparedBatch:
        """The same batch; features of references that several strategies read for these samples are read once."""
        return replace(self, neighbors=self.neighbors.share_features(names, rows))

    def answer(self, name: str, rows: Rows) -> dict[str, Any]:
        """Re-route some samples with a strategy and generate their answers.

        Args:
            name: of the strategy.
            rows: of the samples in this batch.

        Returns:
            Arrays with a leading axis n: `tokens` (or `texts`), `weights`, `path`, `losses`, `kernel_weights`,
            `used_fallback` and `evaluations`; and the `routing` of a strategy, `None` for the untouched model, with
            `untouched` where a strategy keeps the model untouched for some samples.

        Raises:
            R2T2Error: the strategy needs something that model or bank do not offer.
        """
        strategy, queries, keys = self.strategies[name], take(self.queries, rows), take(self.keys, rows)
        references = self.neighbors.references(name, rows)
        weights: Any = np.zeros((len(rows), 0), np.float32)
        if references is not None and references.weights is not None and strategy.selector is not None:
            weights = references.weights
        if not isinstance(strategy, Strategy):
            references = References(None) if references is None else references  # `Evaluator.create` checks it
            return self._answer_baseline(name, strategy, queries, references, rows) | {"kernel_weights": weights}
        if strategy.augmentations is not None:
            queries = self._with_augmentations(strategy, queries, rows)
        rerouted = reroute_batch(
            strategy, self.port.model, self.port.params, queries, references, keys, vmap_size=self.vmap_size
        )
        tokens = generate_batch(self.port, queries.features, rerouted.routing, self.vmap_size)
        more = {}
        if (untouched := rerouted.info.get("untouched")) is not None:
            # Gates that differ by token are not those of their mean: the untouched model answers itself.
            own = generate_batch(self.port, queries.features, None, self.vmap_size)
            tokens = jnp.where(untouched[:, None], own, tokens)
            rerouted = replace(rerouted, evaluations=rerouted.evaluations + 1)
            more["untouched"] = untouched
        return more | {
            "tokens": tokens,
            "routing": rerouted.routing,
            "weights": rerouted.weights,
            "path": rerouted.path,
            "losses": rerouted.losses,
            "kernel_weights": weights,
            "used_fallback": rerouted.used_fallback,
            "evaluations": np.full(len(rows), rerouted.evaluations),
        }

    def _answer_baseline(
        self, name: str, baseline: Baseline, queries: Query, references: References, rows: Rows
    ) -> dict[str, Any]:
        records = self.neighbors.records
        neighbors = [[records[j] for j in row] for row in self.neighbors.indices(name, rows).tolist()]
        batch = BaselineBatch(self.port, self._samples(rows), queries, references, neighbors, self.keys[rows])
        return baseline.answer(batch)

    def _samples(self, rows: Rows) -> list[Sample]:
        return [self.questions.samples[i] for i in rows.tolist()]

    def _with_augmentations(self, strategy: Strategy, queries: Query, rows: Rows) -> Query:
        """The queries with features of the augmented images that the strategy's objective reads."""
        kind, objective = strategy.augmentations, strategy.objective
        assert kind is not None
        assert objective is not None
        samples, indices = self._samples(rows), self.dataset_indices[rows]
        features = encode_augmentations(self.port, samples, indices, kind, objective.num_augmentations, self.seed)
        return replace(queries, **{kind: features})

    def answer_at_path(self, name: str, path: Float[Array, "n P L E"], rows: Rows) -> dict[str, Any]:
        """Generate the answer of some samples at each point of a strategy's path.

        Args:
            name: of the strategy.
            path: routing weights of the samples.
            rows: of the samples in this batch.

        Returns:
            `step_tokens` [n P A] and, for labeled samples, `own_losses` [n P]: the loss of the sample's own label.

        Raises:
            R2T2Error: the strategy shifts the gate's logits, and its path holds effective weights instead of shifts.
        """
        strategy = self.strategies[name]
        if isinstance(strategy, Strategy) and strategy.space.kind == "shift":
            raise R2T2Error(f"{name} moves in the shift space: its steps cannot be answered one by one")
        queries, model = take(self.questions.queries, rows), self.port.model
        outputs: dict[str, Any] = {"step_tokens": generate_at_path(self.port, queries.features, path, self.vmap_size)}
        if queries.answer is not None:
            outputs["own_losses"] = losses_at_path(
                self.port.params, queries.features, queries.answer, path, model=model, vmap_size=self.vmap_size
            )
        return outputs

    def score(self, name: str, outputs: Mapping[str, Any], start: int = 0, seconds: float = 0.0) -> BatchResult:
        """Decode and score the answers of the samples from row `start` on.

        Args:
            name: of the strategy.
            outputs: of `answer`, and of `answer_at_path` if the path was answered, as numpy arrays.
            start: row of the first sample.
            seconds: time per sample.

        Returns:
            Predictions, scores, neighbors and paths of the n samples that `outputs` covers; a score is in [0, 1]. A
            strategy that reads permuted labels is scored by them.
        """
        decode, n = self.port.processor.decode, len(outputs["weights"])
        samples, rows = list(self.questions.samples[start : start + n]), np.arange(start, start + n)
        if reads_permuted_labels(self.strategies[name]):
            labels = self.permuted_labels[start : start + n]
            samples = [replace(sample, answers=(label,)) for sample, label in zip(samples, labels, strict=True)]
        predictions = list(outputs["texts"]) if "texts" in outputs else decode(outputs["tokens"])
        steps = [decode(tokens) for tokens in outputs.get("step_tokens", ())] or [[] for _ in samples]
        return BatchResult(
            name=name,
            samples=samples,
            router_weights=np.asarray(self.questions.queries.routing)[start : start + n],
            predictions=predictions,
            scores=np.array([self._score(*pair) for pair in zip(predictions, samples, strict=True)]),
            step_predictions=steps,
            step_scores=np.array(
                [[self._score(step, sample) for step in row] for row, sample in zip(steps, samples, strict=True)]
            ),
            own_losses=np.asarray(outputs.get("own_losses", np.zeros((n, 0), np.float32))),
            neighbors=self.neighbors.indices(name, rows),
            num_neighbors=self.neighbors.counts(name, rows),
            similarities=self.neighbors.similarities(name, rows),
            evaluations=int(outputs["evaluations"][0]),
            seconds_per_sample=seconds,
            **{key: outputs[key] for key in ("weights", "path", "losses", "kernel_weights", "used_fallback")},
        )

    def _score(self, prediction: str, sample: Sample) -> float:
        return float("nan") if self.metric is None else self.metric(prediction, sample)


def reads_permuted_labels(strategy: Method) -> bool:
    """Whether a strategy reads the labels of other questions, which are then its right answers."""
    return isinstance(strategy, Strategy) and Need.PERMUTED_ANSWERS in strategy.needs


def evaluate_batch(
    batch: PreparedBatch,
    strategies: Sequence[str] | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    chunk_size: int | None = None,
    at_path: Collection[str] = (),
    progress: tqdm | None = None,
) -> list[BatchResult]:
    """Re-route, answer and score the samples of a batch with several strategies.

    The result of a sample does not depend on its chunk. The strategies take each chunk in turn, so that they share the
    features of its neighbors.

    Args:
        batch: the samples with their neighbors.
        strategies: names of those to run; all by default.
        start, stop: rows of the samples to evaluate; all by default.
        chunk_size: samples that the device takes at a time; the last chunk is padded to this size. All by default.
        at_path: strategies for which the answer at each point of the path is generated as well.
        progress: a bar that advances by the samples of each chunk.

    Returns:
        One result per strategy, in their order.

    Raises:
        R2T2Error: a strategy needs something that model or bank do not offer, or gives NaN for a whole chunk.
    """
    stop = len(batch) if stop is None else stop
    chunk_size = stop - start if chunk_size is None else chunk_size
    names = list(batch.strategies if strategies is None else strategies)
    outputs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for first in range(start, stop, chunk_size):
        last = min(first + chunk_size, stop)
        chunk = batch.share_features(names, np.arange(first, last))
        for name in names:
            began = time.perf_counter()
            output = run_batch(partial(chunk.answer, name), first, last, chunk_size)
            seconds[name].append((time.perf_counter() - began) / chunk_size)
            check_new_weights(name, output["weights"], [sample.id for sample in batch.questions.samples[first:last]])
            if name in at_path:
                at_steps = partial(_answer_at_path, chunk, name, output["path"], first)
                output |= run_batch(at_steps, first, last, chunk_size)
            outputs[name].append(output)
            if progress is not None:
                progress.update(last - first)
    return [batch.score(name, _join(outputs[name]), start, _per_sample(seconds[name])) for name in names]


def _answer_at_path(
    batch: PreparedBatch, name: str, path: Float[np.ndarray, "n P L E"], first: int, rows: Rows
) -> dict[str, Any]:
    """The answers at the path of a chunk that begins at row `first`."""
    return batch.answer_at_path(name, path[rows - first], rows)


def _join(outputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The arrays of all chunks."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *outputs)


def _per_sample(seconds: Sequence[float]) -> float:
    """The median, without the first of several chunks, which compiles."""
    return float(np.median(seconds[1:] or seconds))
