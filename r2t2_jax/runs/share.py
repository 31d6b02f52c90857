"""Which batches of a plan a process computes, where several share a run."""

from __future__ import annotations

from dataclasses import dataclass

from r2t2_jax.runs.plan import Batch


@dataclass(frozen=True)
class Share:
    """Every `count`-th batch, from the one with number `index` on; by default all."""

    index: int = 0
    count: int = 1

    def has(self, batch: Batch) -> bool:
        """Whether the batch is this process's."""
        return batch.number % self.count == self.index
