"""Fixed batches: every one has the same size, so that one compiled program serves them all; and how long they take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from r2t2_jax.runs.workers import worker_threads

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
