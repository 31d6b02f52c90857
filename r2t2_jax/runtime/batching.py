"""Batches of one fixed size, so that one compiled program serves all; chunks of samples; threads."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.compilation_cache import PROGRAMS

Rows = Int[np.ndarray, "size"]
T = TypeVar("T")
U = TypeVar("U")


def map_batches(
    function: Callable[[Rows], Any], n: int, size: int, progress: tqdm, threads: int = 1
) -> tuple[Any, float]:
    """Apply `function` to the row numbers of each batch; the last batch is padded with its last row.

    Args:
        function: row numbers to a tree of arrays with a leading axis `size`.
        n: number of samples.
        size: samples per batch.
        progress: a bar that advances by the samples of each batch.
        threads: number of batches at a time, after the first, which compiles.

    Returns:
        The joined trees, every leaf a numpy array with a leading axis n, and the median seconds per sample: of the
        batches after the first if there are several.
    """
    size = min(size, n)

    def run(first: int) -> tuple[Any, float]:
        start = time.perf_counter()
        stop = min(first + size, n)
        result = run_batch(function, first, stop, size)
        progress.update(stop - first)
        return result, time.perf_counter() - start

    done = [run(0)]
    with worker_threads(threads) as pool:
        done += pool.map(run, range(size, n, size))
    results, seconds = zip(*done, strict=True)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
    return joined, float(np.median(seconds[1:] or seconds)) / size


def run_batch(function: Callable[[Rows], Any], start: int, stop: int, size: int) -> Any:
    """`function` on rows `start` to `stop`, padded with the last one to `size`; its leaves as numpy arrays."""
    result = function(np.minimum(np.arange(start, start + size), stop - 1))
    rows = jax.tree.map(lambda leaf: np.asarray(leaf)[: stop - start], result)  # waits until it is computed
    PROGRAMS.check()
    return rows


def take(tree: Any, rows: Rows) -> Any:
    """The given rows of every leaf; the tree itself if they are all rows in order."""
    leaves = jax.tree.leaves(tree)
    if leaves and len(leaves[0]) == len(rows) and np.array_equal(rows, np.arange(len(rows))):
        return tree
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def threads_at_a_time() -> int:
    """The number of programs to run at a time: two on CPUs with several cores, otherwise one."""
    return min(2, usable_cores()) if jax.default_backend() == "cpu" else 1


def usable_cores() -> int:
    """The number of cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_chunks(function: Callable[[Any], Any], samples: Any, vmap_size: int = 1) -> Any:
    """`function` over the leading axis of every leaf, `vmap_size` samples at a time; traceable.

    The last chunk is padded with the first sample, so that every chunk has one shape and one program.

    Args:
        function: one sample to a tree of arrays.
        samples: every leaf with a leading axis B.
        vmap_size: number of samples computed together, at most all.
    """
    count = len(jax.tree.leaves(samples)[0])
    vmap_size = min(vmap_size, count)
    if vmap_size <= 1:
        return jax.lax.map(function, samples)
    chunks = -(-count // vmap_size)
    split = jax.tree.map(
        lambda leaf: leaf.reshape(chunks, vmap_size, *leaf.shape[1:]), pad_to_multiple(samples, vmap_size)
    )
    # Not `lax.map(..., batch_size=vmap_size)`, which fails on results without an element (losses of no steps).
    mapped = jax.lax.map(jax.vmap(function), split)  # [chunks, vmap_size, ...]
    return jax.tree.map(lambda leaf: leaf.reshape(chunks * vmap_size, *leaf.shape[2:])[:count], mapped)


def map_parts(function: Callable[[Any], Any], samples: Any, parts: int) -> Any:
    """`function` of several parts of the samples at a time, each in a thread; the results joined.

    The parts have one size, padded with the first sample, and hence one program. No array but the samples is copied.

    Args:
        function: samples to a tree of arrays with a leading axis of their number.
        samples: every leaf with a leading axis B.
        parts: number of parts; one if there are fewer than two samples for each.
    """
    count = len(jax.tree.leaves(samples)[0])
    if parts <= 1 or count < 2 * parts:
        return function(samples)

    def run(part: Any) -> Any:
        return jax.block_until_ready(function(part))

    results = list(_part_threads(parts).map(run, _split(samples, parts=parts)))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *results)


@cache
def _part_threads(parts: int) -> ThreadPoolExecutor:
    """Threads that stay: with new ones each call would take one or two milliseconds more."""
    return ThreadPoolExecutor(parts, "r2t2-part")


@partial(jax.jit, static_argnames="parts")
def _split(samples: Any, *, parts: int) -> list[Any]:
    """The samples in parts of one size: one program, where a slice of each leaf would be one of its own."""
    leaves, structure = jax.tree.flatten(pad_to_multiple(samples, parts))
    return [
        jax.tree.unflatten(structure, part) for part in zip(*(jnp.split(leaf, parts) for leaf in leaves), strict=True)
    ]


def pad_to_multiple(samples: Any, divisor: int) -> Any:
    """The samples, padded with copies of the first to a multiple of the divisor."""
    missing = -len(jax.tree.leaves(samples)[0]) % divisor
    if not missing:
        return samples
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[:1], missing, axis=0)]), samples)


EXHAUSTED = "RESOURCE_EXHAUSTED"


@dataclass
class AdaptiveBatchSize:
    """A number of samples that is halved, with a message to `log`, whenever the device runs out of memory."""

    size: int
    log: Callable[[str], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fit(self, work: Callable[[int], T]) -> T:
        """The result of `work(size)`; the size is halved until the device's memory suffices.

        Raises:
            R2T2Error: a single sample does not fit.
        """
        while True:
            size = self.size
            try:
                return work(size)
            except Exception as error:
                if EXHAUSTED not in str(error):
                    raise
                self._halve(size)

    def _halve(self, tried: int) -> None:
        with self._lock:
            if self.size < tried:  # another thread has halved it already
                return
            if tried == 1:
                raise R2T2Error(
                    "a single sample does not fit in device memory; lower neighborhood.k in the preset, shard the "
                    "model with --mesh, or run r2t2 fit"
                )
            self.size = tried // 2
            self.log(f"out of memory with {tried} samples at a time; continuing with {self.size}")


@contextmanager
def worker_threads(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `threads` workers that starts no pending task after an error or an interruption."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch(work: Callable[[T], U], items: Iterable[T], workers: int) -> Iterator[U]:
    """Yield `work(item)` of every item in order; threads compute up to `workers` results ahead."""
    pending: deque[Any] = deque()
    with worker_threads(workers) as pool:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def compute_ahead(work: Callable[[T], U], items: Iterable[T], workers: int) -> Iterator[U]:
    """As `prefetch`, but the other items start after the first, so that its programs are compiled by one thread."""
    remaining = iter(items)
    for item in remaining:
        yield work(item)
        yield from prefetch(work, remaining, workers)
