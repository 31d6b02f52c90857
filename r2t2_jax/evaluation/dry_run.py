"""What an evaluation will cost, before it begins: model evaluations, FLOPs, and memory read off compiled programs.

The longest question is prepared, encoded and given its neighbours for real; every strategy is then traced for it, and
the costliest compiled: that is where the memory is measured. Nothing is answered.

Axis letters: B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from r2t2_jax.contract import Query, References, Sample
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import PreparedBatch
from r2t2_jax.evaluation.encode import PreparedQuestions, encode_prepared, prepare_questions
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.method.forward import encode_batch, generate_batch, generate_tokens
from r2t2_jax.method.rerouting import lower_batch, reroute_batch
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.runtime.batching import take
from r2t2_jax.runtime.memory import tree_bytes

SHARE = 0.9  # of a device's memory that a batch may take


@dataclass(frozen=True)
class Cost:
    """Of one case: passes through the model that depend on routing, and FLOPs, the case's own encoding included."""

    evaluations: int
    flops: int


@dataclass(frozen=True)
class Memory:
    """What a device holds in bytes: `case` for every sample of a batch, `activations` for those that go abreast."""

    parameters: int
    case: int
    activations: int
    vmap_size: int = 1

    def of_batch(self, size: int) -> int:
        """All of it, for a batch of so many samples."""
        return self.parameters + self.activations + size * self.case

    def largest_batch(self, available: int, most: int) -> int:
        """The largest of `most`, half of it and so on that fits into the memory available, and 1 where none does."""
        size = most
        while size > 1 and self.of_batch(size) > SHARE * available:
            size //= 2
        return size

    def most_abreast(self, available: int, size: int) -> int:
        """The largest of `size`, half of it and so on that should fit, as if activations grew in proportion."""
        vmap_size, left = size, SHARE * available - self.parameters - size * self.case
        while vmap_size > 1 and self.activations / self.vmap_size * vmap_size > left:
            vmap_size //= 2
        return vmap_size


@dataclass(frozen=True)
class Forecast:
    """Costs by strategy, and the memory of the costliest program.

    Args:
        costs: by strategy.
        memory: of a batch whose samples are computed `memory.abreast` at a time.
        measure: that memory with another number abreast; compiles.
    """

    costs: dict[str, Cost]
    memory: Memory
    measure: Callable[[int], Memory]

    def widest(self, available: int, size: int) -> Memory:
        """With the most samples abreast that fit into the memory available, as the compiled program says."""
        vmap_size = self.memory.most_abreast(available, size)
        while vmap_size > 1:
            memory = self.measure(vmap_size)
            if memory.of_batch(size) <= SHARE * available:
                return memory
            vmap_size //= 2
        return self.memory


def forecast(evaluator: Evaluator, longest: Sample, size: int) -> Forecast:
    """Cost and memory of the strategies of an evaluator.

    Args:
        evaluator: model, bank and strategies.
        longest: the question that takes the most.
        size: samples a batch.

    Raises:
        R2T2Error: a strategy asks for what bank or model do not offer, or the compiler tells nothing about memory.
    """
    port = evaluator.port
    prepared = prepare_questions(port, [longest])
    questions = encode_prepared(port, prepared, 1, tqdm(disable=True))
    batch = evaluator.prepare_batch(questions)
    encode = _flops(partial(encode_batch, model=port.model), port.params, prepared.inputs)
    answer = _flops(lambda features: generate_batch(port, features, None), questions.queries.features)
    costs = {}
    for name, strategy in _strategies(batch).items():
        program, found = jax.make_jaxpr(partial(reroute_batch, strategy, port.model), return_shape=True)(
            port.params, *_arguments(batch, name, 1)
        )
        costs[name] = Cost(found.evaluations, encode + count_flops(program) + answer)
    costliest = max(costs, key=lambda name: costs[name].flops)
    measure = partial(_memory, batch, prepared, costliest, size)
    return Forecast(costs, measure(evaluator.vmap_size), measure)


def _strategies(batch: PreparedBatch) -> dict[str, Strategy]:
    return {name: one for name, one in batch.strategies.items() if isinstance(one, Strategy)}


def _arguments(batch: PreparedBatch, name: str, size: int) -> tuple[Query, References | None, jax.Array]:
    rows = np.zeros(size, int)
    return take(batch.queries, rows), batch.neighbors.references(name, rows), batch.keys[rows]


def _memory(batch: PreparedBatch, prepared: PreparedQuestions, name: str, size: int, vmap_size: int) -> Memory:
    """Read off the compiled programs that encode, re-route by a strategy, and answer."""
    port, rows = batch.port, np.zeros(size, int)
    queries, references, keys = _arguments(batch, name, size)
    strategy, sizes = _strategies(batch)[name], {"model": port.model, "vmap_size": vmap_size}
    reroute = lower_batch(strategy, port.model, port.params, queries, references, keys, vmap_size)
    routing = jax.eval_shape(
        partial(reroute_batch, strategy, port.model), port.params, queries, references, keys
    ).routing
    encode = encode_batch.lower(port.params, take(prepared.inputs, rows), **sizes)
    answer = generate_tokens.lower(port.params, queries.features, routing, max_new_tokens=port.max_new_tokens, **sizes)
    programs = [_sizes(lowered) for lowered in (reroute, encode, answer)]
    parameters = tree_bytes(port.params)
    arguments = programs[0].argument_size_in_bytes - parameters
    samples = max(0, arguments) + programs[0].output_size_in_bytes
    return Memory(parameters, -(-samples // size), max(one.temp_size_in_bytes for one in programs), vmap_size)


def _sizes(lowered: jax.stages.Lowered) -> Any:
    analysis = lowered.compile().memory_analysis()
    if analysis is None:
        raise R2T2Error(f"the compiler for {jax.default_backend()} tells nothing about memory; give --batch-size")
    return analysis


def _flops(function: Any, *arguments: Any) -> int:
    return count_flops(jax.make_jaxpr(function)(*arguments))


def device_memory() -> int | None:
    """Bytes of a device's own memory; `None` where it has none of its own, as a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats.get("bytes_limit")
