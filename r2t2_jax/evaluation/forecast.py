"""What an evaluation will cost, before it begins: model evaluations, FLOPs, and memory read off compiled programs.

The longest question is prepared, encoded and given its neighbours for real; every strategy is then traced for it, and
the costliest compiled. Nothing is answered.

Axis letters: B samples of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from r2t2_jax.contract import Query, References, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batches import take
from r2t2_jax.evaluation.evaluate import Evaluation, Setup
from r2t2_jax.evaluation.passes import encode_batch, generate_batch
from r2t2_jax.evaluation.questions import encode_prepared, prepare_questions
from r2t2_jax.program import count_flops
from r2t2_jax.rerouting import lower_batch, reroute_batch
from r2t2_jax.sizes import tree_bytes
from r2t2_jax.strategies import Strategy

SHARE = 0.9  # of a device's memory that a batch may take


@dataclass(frozen=True)
class Cost:
    """Of one case: passes through the model that depend on routing, and FLOPs, the case's own encoding included."""

    evaluations: int
    flops: int


@dataclass(frozen=True)
class Memory:
    """What a device holds in bytes. `case` grows with every sample of a batch, `activations` do not."""

    parameters: int
    case: int
    activations: int

    def of_batch(self, size: int) -> int:
        """All of it, for a batch of so many samples."""
        return self.parameters + self.activations + size * self.case

    def largest_batch(self, available: int, most: int) -> int:
        """The largest of `most`, half of it and so on that fits into the memory available, and 1 where none does."""
        size = most
        while size > 1 and self.of_batch(size) > SHARE * available:
            size //= 2
        return size


@dataclass(frozen=True)
class Forecast:
    """Costs by strategy, and the memory of the strategy that takes the most FLOPs."""

    costs: dict[str, Cost]
    memory: Memory


def forecast(setup: Setup, longest: Sample, size: int) -> Forecast:
    """What the strategies of a setup cost.

    Args:
        setup: model, bank and strategies.
        longest: the question that takes the most.
        size: samples a batch.

    Raises:
        R2T2Error: a strategy asks for what bank or model do not offer, or the compiler tells nothing about memory.
    """
    port = setup.port
    prepared = prepare_questions(port, [longest])
    questions = encode_prepared(port, prepared, 1, tqdm(disable=True))
    evaluation = setup.asked(questions, np.zeros(1, int))
    encode = _flops(partial(encode_batch, model=port.model), port.params, prepared.inputs)
    answer = _flops(lambda features: generate_batch(port, features, None), questions.queries.features)
    costs = {}
    for name, strategy in _strategies(evaluation).items():
        program, found = jax.make_jaxpr(partial(reroute_batch, strategy, port.model), return_shape=True)(
            port.params, *_arguments(evaluation, name, 1)
        )
        costs[name] = Cost(found.evaluations, encode + count_flops(program) + answer)
    return Forecast(costs, _memory(evaluation, max(costs, key=lambda name: costs[name].flops), size))


def _strategies(evaluation: Evaluation) -> dict[str, Strategy]:
    return {name: one for name, one in evaluation.strategies.items() if isinstance(one, Strategy)}


def _arguments(evaluation: Evaluation, name: str, size: int) -> tuple[Query, References, jax.Array]:
    rows = np.zeros(size, int)
    return take(evaluation.queries, rows), evaluation.lookup.references(name, rows), evaluation.keys[rows]


def _memory(evaluation: Evaluation, name: str, size: int) -> Memory:
    port = evaluation.port
    queries, references, keys = _arguments(evaluation, name, size)
    compiled = lower_batch(_strategies(evaluation)[name], port.model, port.params, queries, references, keys).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise R2T2Error(f"the compiler for {jax.default_backend()} tells nothing about memory; give --batch-size")
    parameters = tree_bytes(port.params)
    batch = max(0, analysis.argument_size_in_bytes - parameters) + analysis.output_size_in_bytes
    return Memory(parameters, -(-batch // size), analysis.temp_size_in_bytes)


def _flops(function: Any, *arguments: Any) -> int:
    return count_flops(jax.make_jaxpr(function)(*arguments))


def device_memory() -> int | None:
    """Bytes of a device's own memory; `None` where it has none of its own, as a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats.get("bytes_limit")
