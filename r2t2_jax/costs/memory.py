"""How many neighbours and samples fit in memory: read off the compiled program, without weights and without running it.

Re-routing B samples with K neighbours each holds

    parameters  +  B x (query, key, result)  +  B x K x (features, answer, routing)  +  activations(K)

The first three follow from shapes. The last is what XLA reserves for intermediate results; since samples go one by one
through `lax.map` it grows with K and hardly with B, so a straight line through few compiled programs finds the largest
K, and compiling for that very K confirms it.

Axis letters: B samples, K neighbours, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp

from r2t2_jax.contract import ModelShapes, Query, References
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.runtime.memory import format_size, tree_bytes

MOST_NEIGHBORS, MOST_SAMPLES = 4096, 65_536  # nobody asks for more
COMPILES = 8  # at most, in search of one number


@dataclass(frozen=True)
class Footprint:
    """What re-routing a batch holds in memory, in bytes. `compiled` tells that activations were not estimated."""

    samples: int
    neighbors: int
    parameters: int
    queries: int
    references: int
    activations: int
    compiled: bool

    @property
    def total(self) -> int:
        return self.parameters + self.queries + self.references + self.activations


@dataclass(frozen=True)
class Memory:
    """What one strategy of the neighbourhood kind takes on one model. Compiled programs are remembered."""

    shapes: ModelShapes
    strategy: Strategy
    on_compile: Callable[[str], None] = lambda _: None
    _activations: dict[tuple[int, int], int] = field(default_factory=dict)

    def footprint(self, samples: int, neighbors: int) -> Footprint:
        """Memory of a batch, its activations from the program compiled for it."""
        return self._footprint(samples, neighbors, self._compile(samples, neighbors), compiled=True)

    def estimate(self, samples: int, neighbors: int) -> Footprint:
        """Memory of a batch, its activations, unless compiled, on the line through those of the two nearest K."""
        if (samples, neighbors) in self._activations:
            return self.footprint(samples, neighbors)
        by_k = {k: activations for (_, k), activations in sorted(self._activations.items())}
        near = sorted(sorted(by_k, key=lambda k: abs(k - neighbors))[:2])
        if len(near) == 1:
            slope = by_k[near[0]] / near[0]
        else:
            slope = max(0.0, (by_k[near[1]] - by_k[near[0]]) / (near[1] - near[0]))
        activations = max(0, round(by_k[near[0]] + slope * (neighbors - near[0])))
        return self._footprint(samples, neighbors, activations, compiled=False)

    def _footprint(self, samples: int, neighbors: int, activations: int, compiled: bool) -> Footprint:
        return Footprint(
            samples,
            neighbors,
            parameters=tree_bytes(self.shapes.params),
            queries=samples * self._query_bytes,
            references=samples * neighbors * self._reference_bytes,
            activations=activations,
            compiled=compiled,
        )

    @cached_property
    def _query_bytes(self) -> int:
        """A sample's features, key and result; its path of routing weights is as long with any number of neighbours."""
        queries, references, keys = self._arguments(1, 1)
        results = jax.eval_shape(self._reroute, self.shapes.params, queries, references, keys)
        return tree_bytes((queries, keys, results))

    @cached_property
    def _reference_bytes(self) -> int:
        return tree_bytes(self._arguments(1, 1)[1])

    @property
    def _reroute(self) -> Callable[..., Any]:
        return partial(reroute_batch, self.strategy, self.shapes.model)

    def _arguments(self, samples: int, neighbors: int) -> tuple[Query, References, jax.ShapeDtypeStruct]:
        shapes, routing = self.shapes, jax.ShapeDtypeStruct(self.shapes.model.spec.shape, jnp.float32)
        near = (samples, neighbors)
        queries = Query(
            _stack(shapes.features, samples),
            _stack(routing, samples),  # [B, L, E]
            _stack(jax.ShapeDtypeStruct(routing.shape, bool), samples),
        )
        references = References(
            None,
            _stack(shapes.features, *near),
            _stack(shapes.answer, *near),
            _stack(routing, *near),  # [B, K, L, E]
            _stack(jax.ShapeDtypeStruct((), jnp.float32), *near),
        )
        return queries, references, jax.eval_shape(lambda: sample_keys(0, jnp.arange(samples)))

    def _compile(self, samples: int, neighbors: int) -> int:
        size = (samples, neighbors)
        if size not in self._activations:
            self.on_compile(f"compile for {samples:,} samples with {neighbors:,} neighbours")
            lowered = jax.jit(self._reroute).lower(self.shapes.params, *self._arguments(*size))
            analysis = lowered.compile().memory_analysis()
            if analysis is None:
                raise R2T2Error(f"the compiler for {jax.default_backend()} tells nothing about memory; use another")
            self._activations[size] = analysis.temp_size_in_bytes
        return self._activations[size]


def _stack(tree: Any, *axes: int) -> Any:
    """The shapes with leading axes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype), tree)


@dataclass(frozen=True)
class Fit:
    """The largest numbers that fit, and what takes the memory at a few others, each with a batch of one."""

    memory: int
    most_neighbors: Footprint  # of a batch of one sample
    most_samples: Footprint  # with the preset's k, or with all that fit where they are fewer
    examples: tuple[Footprint, ...]


def fit(memory: Memory, available: int, neighbors: int) -> Fit:
    """The largest k and, for `neighbors` of them, the largest batch that fit into `available` bytes.

    Raises:
        R2T2Error: not even one sample with one neighbour fits; says what takes how much.
    """
    parameters = tree_bytes(memory.shapes.params)
    if parameters >= available:
        _refuse(memory, available, f"its parameters alone take {format_size(parameters)}")
    least = memory.footprint(1, 1)
    if least.total > available:
        _refuse(
            memory,
            available,
            f"one sample with one neighbour takes {format_size(least.total)}: parameters {format_size(parameters)}, "
            f"features {format_size(least.queries + least.references)}, activations {format_size(least.activations)}",
        )

    def with_neighbors(k: int, compiled: bool) -> Footprint:
        return memory.footprint(1, k) if compiled else memory.estimate(1, k)

    most_neighbors = _largest(with_neighbors, available, MOST_NEIGHBORS, first=neighbors)
    k = min(neighbors, most_neighbors.neighbors)

    def with_samples(samples: int, compiled: bool) -> Footprint:
        return memory.footprint(samples, k) if compiled else memory.estimate(samples, k)

    most_samples = _largest(with_samples, available, MOST_SAMPLES)
    wanted = sorted({1, neighbors, 2 * neighbors, 4 * neighbors, most_neighbors.neighbors})
    examples = [memory.estimate(1, k) for k in wanted if k < most_neighbors.neighbors]
    return Fit(available, most_neighbors, most_samples, (*examples, most_neighbors))


def _refuse(memory: Memory, available: int, why: str) -> None:
    raise R2T2Error(f"{memory.shapes.name} does not fit into {format_size(available)}: {why}")


def _largest(
    footprint: Callable[[int, bool], Footprint], available: int, most: int, first: int | None = None
) -> Footprint:
    """The footprint of the largest number whose compiled program fits; one is known to."""
    fitting, best = 1, footprint(1, True)
    too_large = most + 1
    guess = first or _last(lambda n: footprint(n, False).total <= available, 1, most)
    for _ in range(COMPILES):
        guess = min(max(guess, fitting + 1), too_large - 1)
        if guess <= fitting:
            break
        found = footprint(guess, True)
        if found.total <= available:
            fitting, best = guess, found
        else:
            too_large = guess
        guess = _last(lambda n: footprint(n, False).total <= available, fitting, too_large - 1)
        if guess == fitting:
            break
    return best


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number from low to high for which `holds`, by bisection; low where it holds for none above."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
