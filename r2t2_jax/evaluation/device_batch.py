"""How many samples a device takes at a time, and fewer where its memory does not do.

Samples of a batch go one by one, or so many abreast, so how many are handed over changes no result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from r2t2_jax.errors import R2T2Error

T = TypeVar("T")
EXHAUSTED = "RESOURCE_EXHAUSTED"


@dataclass
class DeviceBatch:
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
