"""Cost and memory of an evaluation before it starts: the input of `--dry-run` and of the automatic batch size.

Everything is read off shapes: the longest question is prepared, and every strategy is traced for it and for references
of its length (`costs.prediction`). No question is encoded, embedded or answered, no neighbor is retrieved, and a model
without weights serves as well (`plugins.load(..., weights=False)`). Where the bank stores no features, the cost
includes the encoding of all neighbors that a strategy runs the model on: an upper bound, since cached neighbors cost
nothing.

Axis letters: B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from r2t2_jax.contract import ModelShapes, Port, Sample
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.costs.memory import largest_vmap_size
from r2t2_jax.costs.prediction import CostPrediction, MemoryUse, SampleCost, abstract_batch, stack_shapes
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.feature_cache import FeatureCache
from r2t2_jax.evaluation.question_sets import QuestionSet, length
from r2t2_jax.method.forward import encode_batch, generate_tokens
from r2t2_jax.method.rerouting import canonicalize
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import Method
from r2t2_jax.validation.port import check_foreign


@dataclass(frozen=True)
class DryRun:
    """The predicted cost of an evaluation.

    Args:
        costs: by strategy, per sample, encoding and answering included.
        memory: of a batch under the strategy with the most FLOPs.
        measure: that memory with another `vmap_size`.
        strategy: with the most FLOPs.
    """

    costs: dict[str, SampleCost]
    memory: MemoryUse
    measure: Callable[[int], MemoryUse]
    strategy: str

    def widest(self, available: int, size: int) -> MemoryUse:
        """Memory with the largest `vmap_size` whose compiled program fits a batch of `size` into the memory."""
        return largest_vmap_size(self.memory, self.measure, available, size)


def longest_question(benchmarks: Mapping[str, QuestionSet]) -> Sample:
    """The longest question of all benchmarks, each of which has its longest first."""
    return max((questions.samples[0] for questions in benchmarks.values()), key=length)


def predict_evaluation(evaluator: Evaluator, longest: Sample, size: int, every_program: bool = True) -> DryRun:
    """Cost and memory of the strategies of an evaluation.

    Args:
        evaluator: model, bank and strategies.
        longest: the question with the most tokens; references are taken to be as long.
        size: samples per batch.
        every_program: compile the programs that encode and answer too, which may take more memory than re-routing.
            Without them one program is compiled.

    Raises:
        R2T2Error: a strategy needs what bank or model do not offer, or the compiler reports no memory use.
    """
    index = evaluator.index
    computed = index is not None and isinstance(index.bank.reader, FeatureCache)
    points = 0 if index is None or index.bank.atlas is None else len(index.bank.atlas.points)
    prediction = EvaluationPrediction(evaluator.port, evaluator.strategies, points, computed, longest)
    return prediction.predict(size, evaluator.vmap_size, every_program)


class EvaluationPrediction:
    """The programs of an evaluation, traced for one question.

    Args:
        port: the model.
        strategies: by name.
        points: number of points of the loss atlas.
        computed: whether the references' features are computed when a strategy reads them.
        question: the question, as long as any.
    """

    def __init__(
        self, port: Port, strategies: Mapping[str, Method], points: int, computed: bool, question: Sample
    ) -> None:
        self._port, self._points, self._computed = port, points, computed
        self._strategies = {name: method for name, method in strategies.items() if isinstance(method, Strategy)}
        check_foreign(port, [question])
        inputs = port.processor.prepare(port.params, [question])
        self._inputs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
        encode = encode_batch.trace(port.params, stack_shapes(self._inputs, 1), model=port.model)
        self._features, _ = jax.tree.map(_first, encode.out_info)
        labels = port.processor.answer_ids([question.answers[0] if question.answers else "yes"])
        answer = jax.tree.map(lambda leaf: _first(jnp.asarray(leaf)), labels)
        self._shapes = ModelShapes(port.name, port.model, port.params, self._features, answer)
        self._encode_flops = count_flops(encode.jaxpr)
        self._answer_flops = count_flops(self._answers(1, None, 1).jaxpr)

    def predict(self, size: int, vmap_size: int, every_program: bool, compiled: bool = True) -> DryRun:
        """Cost of a sample, and memory of a batch of `size`; `compiled` as for `CostPrediction`."""
        costs, traced = dict[str, SampleCost](), dict[Any, CostPrediction]()
        for name, strategy in self._strategies.items():
            program = jax.tree.structure(canonicalize(strategy)), getattr(strategy.selector, "k", None)
            if program not in traced:  # strategies that differ in numbers or in retrieval share a program
                traced[program] = self._rerouting(name, size, vmap_size, compiled=compiled)
            cost = traced[program].cost
            encodings = self._encodings(strategy)
            augmented = 0 if strategy.objective is None else strategy.objective.num_augmentations
            flops = (1 + encodings + augmented) * self._encode_flops + cost.flops + self._answer_flops
            costs[name] = SampleCost(cost.evaluations, flops, encodings)
        name = max(costs, key=lambda name: costs[name].flops)
        others = every_program or (compiled and costs[name].evaluations <= 1)

        def measure(vmap_size: int) -> MemoryUse:
            programs = self._other_programs(name, size, vmap_size) if others else ()
            return self._rerouting(name, size, vmap_size, programs, compiled).memory

        return DryRun(costs, measure(vmap_size), measure, name)

    def _rerouting(
        self, name: str, size: int, vmap_size: int, programs: Sequence[Any] = (), compiled: bool = True
    ) -> CostPrediction:
        strategy, port = self._strategies[name], self._port
        batch = abstract_batch(self._shapes, strategy, size, points=self._points)
        return CostPrediction(strategy, port.model, port.params, batch, vmap_size, programs, compiled)

    def _encodings(self, strategy: Strategy) -> int:
        """References that must be encoded for one sample, if none of them is cached."""
        if not self._computed or not strategy.reads_neighbor_features or strategy.selector is None:
            return 0
        references = abstract_batch(self._shapes, strategy, points=self._points).references
        return 0 if references is None or references.weights is None else references.weights.shape[-1]

    def _other_programs(self, name: str, size: int, vmap_size: int) -> tuple[jax.stages.Traced, jax.stages.Traced]:
        """The programs that encode a batch, and that answer it under the routing weights of a strategy."""
        port, inputs = self._port, stack_shapes(self._inputs, size)
        routing = self._rerouting(name, size, vmap_size).rerouted.routing
        encode = encode_batch.trace(port.params, inputs, model=port.model, vmap_size=vmap_size)
        return encode, self._answers(size, routing, vmap_size)

    def _answers(self, size: int, routing: Any, vmap_size: int) -> jax.stages.Traced:
        port = self._port
        decoding = {"max_new_tokens": port.max_new_tokens, "beams": port.beams, "vmap_size": vmap_size}
        features = stack_shapes(self._features, size)
        return generate_tokens.trace(port.params, features, routing, model=port.model, **decoding)


def _first(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of the first row of a batch."""
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def device_memory() -> int | None:
    """Bytes of a device's own memory; `None` for a device without its own, such as a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats.get("bytes_limit")
