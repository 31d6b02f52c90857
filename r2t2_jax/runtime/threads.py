"""Thread pools: one that cancels pending work on error, and prefetching of an iterable."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


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
