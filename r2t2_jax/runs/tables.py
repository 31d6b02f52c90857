"""A run's tables, put together from the records of its batches in the order of the plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from r2t2_jax.runs import columns
from r2t2_jax.runs.plan import Plan
from r2t2_jax.runs.shards import Record

if TYPE_CHECKING:
    import pyarrow as pa


def read_table(records: Mapping[int, Record], plan: Plan, parts: Collection[str]) -> pa.Table:
    """The rows of some parts, of the batches that have any."""
    numbers = [batch.number for batch in plan.batches if batch.part in parts and batch.number in records]
    return columns.join([columns.from_bytes(records[number].read()) for number in numbers])
