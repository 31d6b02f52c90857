"""Fixed batches: every one has the same size, so that one compiled program serves them all; and how long they take."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.threads import worker_threads

Rows = Int[np.ndarray, "size"]


def map_batches(
    function: Callable[[Rows], Any], n: int, size: int, progress: tqdm, threads: int = 1
) -> tuple[Any, float]:
    """`function` on the row numbers of each batch; the last batch is filled up with its last row.

    Args:
        function: row numbers to a tree of arrays with a leading axis `size`.
        n: number of samples.
        size: samples a batch.
        progress: a bar to move on by each batch's samples.
        threads: batches at a time, after the first, which compiles.

    Returns:
        The trees joined, every leaf a numpy array with a leading axis n; and the median of seconds a case, of the
        batches after the first where there are more.
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
    """`function` on rows `start` to `stop`, filled up with the last one to `size`; its leaves as numpy arrays."""
    result = function(np.minimum(np.arange(start, start + size), stop - 1))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[: stop - start], result)  # waits until it is computed


def take(tree: Any, rows: Rows) -> Any:
    """The given rows of every leaf."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def progress_bar(total: int, title: str) -> tqdm:
    """A bar that counts samples and disappears when done."""
    return tqdm(total=total, desc=title, unit="case", leave=False, dynamic_ncols=True)


def threads_at_a_time() -> int:
    """One program keeps one CPU core busy, compiling or running; an accelerator is shared badly."""
    return min(2, os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1


def map_in_chunks(function: Callable[[Any], Any], samples: Any, vmap_size: int = 1) -> Any:
    """`function` over the leading axis of every leaf, `vmap_size` samples at a time; traceable.

    The last ones are filled up with the first sample, so that every chunk has one shape and one program.

    Args:
        function: one sample to a tree of arrays.
        samples: every leaf with a leading axis B.
        abreast: how many are computed together; as many as there are where there are fewer.
    """
    count = len(jax.tree.leaves(samples)[0])
    vmap_size = min(vmap_size, count)
    if vmap_size <= 1:
        return jax.lax.map(function, samples)
    chunks = -(-count // vmap_size)
    split = jax.tree.map(
        lambda leaf: leaf.reshape(chunks, vmap_size, *leaf.shape[1:]), pad_to_multiple(samples, vmap_size)
    )
    # Not by `lax.map(..., batch_size=abreast)`, which fails on results without an element (losses of no steps).
    mapped = jax.lax.map(jax.vmap(function), split)  # [chunks, abreast, ...]
    return jax.tree.map(lambda leaf: leaf.reshape(chunks * vmap_size, *leaf.shape[2:])[:count], mapped)


def pad_to_multiple(samples: Any, divisor: int) -> Any:
    """The samples and as many copies of the first as make their number a multiple of the divisor."""
    missing = -len(jax.tree.leaves(samples)[0]) % divisor
    if not missing:
        return samples
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[:1], missing, axis=0)]), samples)


T = TypeVar("T")
EXHAUSTED = "RESOURCE_EXHAUSTED"


@dataclass
class AdaptiveBatchSize:
    """A number of samples, halved whenever the device runs out of memory; `say` is told so."""

    size: int
    say: Callable[[str], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fit(self, work: Callable[[int], T]) -> T:
        """`work` with as many samples at a time as fit.

        Raises:
            R2T2Error: not even one does.
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
            if self.size < tried:  # another batch has found out before
                return
            if tried == 1:
                raise R2T2Error(
                    "the device's memory does not do for a single sample; ask for a smaller k in a preset, cut the "
                    "model with --mesh, or see what r2t2 fit says"
                )
            self.size = tried // 2
            self.say(f"out of memory with {tried} samples at a time: going on with {self.size}")
