"""Cost and memory of an evaluation before it starts: the input of `--dry-run` and of the automatic batch size.

The longest question is prepared and given its neighbors, with zeros in place of features. Every strategy is then traced
for it, and the most expensive one compiled (`costs.prediction`). No question is encoded or answered. Where the bank
stores no features, the cost includes the encoding of all neighbors that a strategy runs the model on: an upper bound,
since cached neighbors cost nothing.

Axis letters: B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from r2t2_jax.contract import Inputs, Sample, condition
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.costs.memory import largest_vmap_size
from r2t2_jax.costs.prediction import BatchInputs, CostPrediction, MemoryUse, SampleCost
from r2t2_jax.evaluation.batch import PreparedBatch
from r2t2_jax.evaluation.encode import EncodedQuestions, prepare_questions, questions_like
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.feature_cache import FeatureCache
from r2t2_jax.method.forward import encode_batch, generate_batch, generate_tokens
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.runtime.batching import Rows, take


@dataclass(frozen=True)
class DryRun:
    """The predicted cost of an evaluation.

    Args:
        costs: by strategy, per sample, encoding and answering included.
        memory: of a batch under the strategy with the most FLOPs.
        measure: that memory with another `vmap_size`; compiles.
        strategy: with the most FLOPs.
    """

    costs: dict[str, SampleCost]
    memory: MemoryUse
    measure: Callable[[int], MemoryUse]
    strategy: str

    def widest(self, available: int, size: int) -> MemoryUse:
        """Memory with the largest `vmap_size` whose compiled program fits a batch of `size` into the memory."""
        return largest_vmap_size(self.memory, self.measure, available, size)


def predict_evaluation(evaluator: Evaluator, longest: Sample, size: int, every_program: bool = True) -> DryRun:
    """Cost and memory of the strategies of an evaluation.

    Args:
        evaluator: model, bank and strategies.
        longest: the question with the most tokens; references that have no stored features are taken to be as long.
        size: samples per batch.
        every_program: compile the programs that encode and answer too, which may take more memory than re-routing.
            Without them one program is compiled.

    Raises:
        R2T2Error: a strategy needs what bank or model do not offer, or the compiler reports no memory use.
    """
    port = evaluator.port
    prepared = prepare_questions(port, [longest])
    encode, questions = questions_like(port, prepared)
    batch = _without_features(evaluator, questions).prepare_batch(questions)
    answer = _flops(lambda features: generate_batch(port, features, None), questions.queries.features)
    costs = {}
    for name, strategy in batch.strategies.items():
        if isinstance(strategy, Strategy):
            inputs = _device_batch(batch, name, 1)
            cost = CostPrediction(strategy, port.model, port.params, inputs).cost
            encodings = _encodings(evaluator, strategy, inputs)
            costs[name] = SampleCost(cost.evaluations, (1 + encodings) * encode + cost.flops + answer, encodings)
    name = max(costs, key=lambda name: costs[name].flops)
    others = every_program or costs[name].evaluations <= 1
    measure = partial(_memory, batch, prepared.inputs if others else None, name, size)
    return DryRun(costs, measure(evaluator.vmap_size), measure, name)


def _without_features(evaluator: Evaluator, questions: EncodedQuestions) -> Evaluator:
    """The evaluator with zeros in place of features of references that are computed from their images."""
    port, index = evaluator.port, evaluator.index
    if index is None or not isinstance(index.bank.reader, FeatureCache):
        return evaluator
    answers = port.processor.answer_ids([str(index.bank.records[0]["answer"])])
    features, answer = jax.tree.map(lambda leaf: leaf[0], (questions.queries.features, answers))
    shapes = jax.eval_shape(partial(condition, port.model), port.params, features, answer), answer
    bank = replace(index.bank, reader=partial(_zeros, shapes))
    return replace(evaluator, index=replace(index, bank=bank, correct=bank.only_correct()))


def _zeros(shapes: Any, rows: Rows) -> Any:
    """Zeros with a leading axis of rows, which share one number in memory."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), (len(rows), *leaf.shape)), shapes)


def _device_batch(batch: PreparedBatch, name: str, size: int) -> BatchInputs:
    """The first sample `size` times."""
    rows = np.zeros(size, int)
    return BatchInputs(take(batch.queries, rows), batch.neighbors.references(name, rows), batch.keys[rows])


def _encodings(evaluator: Evaluator, strategy: Strategy, inputs: BatchInputs) -> int:
    """References that must be encoded for one sample, if none of them is cached."""
    index, references = evaluator.index, inputs.references
    computed = index is not None and isinstance(index.bank.reader, FeatureCache)
    if not computed or not strategy.reads_neighbor_features or references is None or references.weights is None:
        return 0
    return references.weights.shape[-1]


def _memory(batch: PreparedBatch, inputs: Inputs | None, name: str, size: int, vmap_size: int) -> MemoryUse:
    """Memory of a batch: the largest of the programs that encode, re-route by a strategy, and answer.

    Without inputs it is that of the program that re-routes.
    """
    port, strategy = batch.port, batch.strategies[name]
    assert isinstance(strategy, Strategy)
    samples, static = _device_batch(batch, name, size), {"model": port.model, "vmap_size": vmap_size}
    if inputs is None:
        return CostPrediction(strategy, port.model, port.params, samples, vmap_size).memory
    features = samples.queries.features
    routing = jax.eval_shape(partial(reroute_batch, strategy, port.model), port.params, *samples).routing
    programs = (
        encode_batch.trace(port.params, take(inputs, np.zeros(size, int)), **static),
        generate_tokens.trace(
            port.params, features, routing, max_new_tokens=port.max_new_tokens, beams=port.beams, **static
        ),
    )
    return CostPrediction(strategy, port.model, port.params, samples, vmap_size, programs).memory


def _flops(function: Any, *arguments: Any) -> int:
    return count_flops(jax.make_jaxpr(function)(*arguments))


def device_memory() -> int | None:
    """Bytes of a device's own memory; `None` for a device without its own, such as a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats.get("bytes_limit")
