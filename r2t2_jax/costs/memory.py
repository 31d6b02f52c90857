"""The largest batch, number of neighbors and `vmap_size` that fit in memory, found without running anything.

Parameters, samples and neighbors take what their shapes say. Activations are read off the compiled program, or off the
traced one for accelerators that are not at hand (`prediction.reads_shapes`): samples go one by one through `lax.map`,
so activations grow with the number of neighbors K and hardly with the batch size B. A straight line through few
programs finds the largest K, and compiling or tracing for that K confirms it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil

from r2t2_jax.contract import ModelShapes
from r2t2_jax.costs.prediction import CostPrediction, MemoryUse, abstract_batch
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.runtime.pytrees import device_bytes

MAX_NEIGHBORS, MAX_SAMPLES = 4096, 65_536  # the search goes no further
MAX_COMPILATIONS = 8  # per searched number
SHARE = 0.9  # of a device's memory that a batch may take


@dataclass(frozen=True)
class MemoryEstimator:
    """Memory of one strategy on one model, for any batch size and number of neighbors.

    Args:
        shapes: of the model.
        strategy: with a neighborhood.
        on_compile: called with a message before each compilation.
    """

    shapes: ModelShapes
    strategy: Strategy
    on_compile: Callable[[str], None] = lambda _: None
    _compiled: dict[tuple[int, int], MemoryUse] = field(default_factory=dict)

    def compiled(self, samples: int, neighbors: int) -> MemoryUse:
        """Memory of a batch, its activations from the program compiled for it; programs are compiled once.

        Raises:
            R2T2Error: the compiler reports no memory use.
        """
        size = samples, neighbors
        if size not in self._compiled:
            self.on_compile(f"compile for {samples:,} samples with {neighbors:,} neighbors")
            batch = abstract_batch(self.shapes, self.strategy, samples, neighbors, labels=False)
            self._compiled[size] = CostPrediction(self.strategy, self.shapes.model, self.shapes.params, batch).memory
        return self._compiled[size]

    def estimate(self, samples: int, neighbors: int) -> MemoryUse:
        """Memory of a batch; activations that were not compiled lie on the line through the two nearest K.

        At least one program must have been compiled.
        """
        if (samples, neighbors) in self._compiled:
            return self._compiled[samples, neighbors]
        by_k = {k: memory for (_, k), memory in sorted(self._compiled.items())}
        near = sorted(sorted(by_k, key=lambda k: abs(k - neighbors))[:2])
        first, last = by_k[near[0]], by_k[near[-1]]
        if len(near) == 1:
            slope = first.activations / near[0]
        else:
            slope = max(0.0, (last.activations - first.activations) / (near[1] - near[0]))
        return replace(
            first,
            samples=samples,
            neighbors=neighbors,
            queries=samples * first.queries // first.samples,
            references=samples * neighbors * first.references // (first.samples * first.neighbors),
            activations=max(0, round(first.activations + slope * (neighbors - near[0]))),
            compiled=False,
        )


@dataclass(frozen=True)
class LargestSizes:
    """The largest sizes that fit into memory.

    Args:
        available: bytes.
        neighbors: memory of the largest K, for one sample.
        samples: memory of the largest B, with the preset's K or the largest that fits if that is smaller.
        examples: memory of one sample with a few K, the largest last.
    """

    available: int
    neighbors: MemoryUse
    samples: MemoryUse
    examples: tuple[MemoryUse, ...]


def largest_sizes(estimator: MemoryEstimator, available: int, neighbors: int) -> LargestSizes:
    """The largest K, and the largest B for `neighbors` neighbors each, that fit into `available` bytes.

    Raises:
        R2T2Error: one sample with one neighbor does not fit; the message says what takes how much.
    """
    parameters = device_bytes(estimator.shapes.params)
    if parameters >= available:
        raise _too_small(estimator, available, f"its parameters take {format_size(parameters)}")
    least = estimator.compiled(1, 1)
    if least.total > available:
        raise _too_small(
            estimator,
            available,
            f"one sample with one neighbor takes {format_size(least.total)}: parameters {format_size(parameters)}, "
            f"features {format_size(least.queries + least.references)}, activations {format_size(least.activations)}",
        )

    def with_neighbors(k: int, compiled: bool) -> MemoryUse:
        return estimator.compiled(1, k) if compiled else estimator.estimate(1, k)

    most_neighbors = _largest(with_neighbors, available, MAX_NEIGHBORS, first=neighbors)
    k = min(neighbors, most_neighbors.neighbors)

    def with_samples(samples: int, compiled: bool) -> MemoryUse:
        return estimator.compiled(samples, k) if compiled else estimator.estimate(samples, k)

    most_samples = _largest(with_samples, available, MAX_SAMPLES)
    sizes = sorted({1, neighbors, 2 * neighbors, 4 * neighbors, most_neighbors.neighbors})
    examples = [estimator.estimate(1, k) for k in sizes if k < most_neighbors.neighbors]
    return LargestSizes(available, most_neighbors, most_samples, (*examples, most_neighbors))


def _too_small(estimator: MemoryEstimator, available: int, reason: str) -> R2T2Error:
    return R2T2Error(f"{estimator.shapes.name} does not fit into {format_size(available)}: {reason}")


def _largest(
    memory: Callable[[int, bool], MemoryUse], available: int, limit: int, first: int | None = None
) -> MemoryUse:
    """Memory of the largest size up to `limit` whose compiled program fits; size 1 is known to fit."""
    fitting, best = 1, memory(1, True)
    too_large = limit + 1
    guess = first or _last(lambda size: memory(size, False).total <= available, 1, limit)
    for _ in range(MAX_COMPILATIONS):
        guess = min(max(guess, fitting + 1), too_large - 1)
        if guess <= fitting:
            break
        compiled = memory(guess, True)
        if compiled.total <= available:
            fitting, best = guess, compiled
        else:
            too_large = guess
        guess = _last(lambda size: memory(size, False).total <= available, fitting, too_large - 1)
        if guess == fitting:
            break
    return best


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number from low to high for which `holds`, by bisection; low if it holds for none above."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def largest_batch(memory: MemoryUse, available: int, limit: int) -> int:
    """The largest of `limit`, `limit` / 2, ... whose predicted memory fits `SHARE` of the available; at least 1."""
    size = limit
    while size > 1 and memory.of_batch(size) > SHARE * available:
        size //= 2
    return size


def largest_vmap_size(memory: MemoryUse, measure: Callable[[int], MemoryUse], available: int, size: int) -> MemoryUse:
    """Memory with the largest `vmap_size` of `size`, `size` / 2, ... whose compiled program fits.

    The search starts where activations would fit if they grew in proportion to `vmap_size`.

    Args:
        memory: with a small `vmap_size`; the result if nothing larger fits.
        measure: memory of the program compiled for a `vmap_size`.
        available: bytes, of which `SHARE` may be used.
        size: samples per batch.
    """
    vmap_size, left = size, SHARE * available - memory.parameters - size * memory.per_sample
    while vmap_size > 1 and memory.activations / memory.vmap_size * vmap_size > left:
        vmap_size //= 2
    while vmap_size > 1:
        measured = measure(vmap_size)
        if measured.of_batch(size) <= SHARE * available:
            return measured
        vmap_size //= 2
    return memory


UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse_size(text: str) -> int:
    """Bytes: `24GB` is 24 times 10^9, `24GiB` is 24 times 2^30. Case is ignored.

    Raises:
        R2T2Error: not a positive number with one of the units.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    units = {unit.lower(): factor for unit, factor in UNITS.items()}
    if not match or match[2].lower() not in units or not float(match[1]):
        raise R2T2Error(f"{text!r} is no size of memory; write a number and one of {', '.join(UNITS)}, as in 24GB")
    return int(float(match[1]) * units[match[2].lower()])


LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def host_memory() -> int:
    """Bytes of memory that this process may use: the host's, or the limit of its container if that is smaller."""
    size = int(psutil.virtual_memory().total)
    for path in LIMITS:
        try:
            size = min(size, int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return size


def format_size(count: int) -> str:
    """Three digits and a decimal unit: `1.25 GB`."""
    for unit in ("TB", "GB", "MB", "KB"):
        if count >= UNITS[unit]:
            share = count / UNITS[unit]
            return f"{share:.{max(0, 2 - int(np.log10(share)))}f} {unit}"
    return f"{count} B"
