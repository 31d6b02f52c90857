"""A thread pool that cancels pending work on error."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def worker_threads(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `threads` workers that starts no pending task after an error or an interruption."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
