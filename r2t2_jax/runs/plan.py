"""What a run will compute, in order: parts, cut into batches by the settings alone, never by what is left to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class Part:
    """`cases` cases that are computed alike, `batch` at a time; `table` is where their rows belong."""

    name: str
    cases: int
    batch: int
    table: str = "rows"


@dataclass(frozen=True)
class Batch:
    """Cases `start` to `stop` of a part; `number` is its place in the plan."""

    number: int
    part: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """All parts of a run.

    Raises:
        R2T2Error: two parts share a name, or one has no case or no batch size.
    """

    parts: Sequence[Part]

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise R2T2Error(f"the parts of a plan need names of their own: {', '.join(self.names)}")
        for part in self.parts:
            if part.cases < 1 or part.batch < 1:
                raise R2T2Error(f"part {part.name!r} has {part.cases} cases in batches of {part.batch}, not 1 or more")

    @cached_property
    def batches(self) -> tuple[Batch, ...]:
        """Every batch, in order."""
        spans = [
            (part.name, start, min(start + part.batch, part.cases))
            for part in self.parts
            for start in range(0, part.cases, part.batch)
        ]
        return tuple(Batch(number, *span) for number, span in enumerate(spans))

    @property
    def names(self) -> list[str]:
        """Of all parts."""
        return [part.name for part in self.parts]

    def of_table(self, table: str) -> list[str]:
        """The names of the parts whose rows belong to a table."""
        return [part.name for part in self.parts if part.table == table]

    def to_json(self) -> list[dict[str, Any]]:
        """As `run.json` holds it."""
        return [vars(part) for part in self.parts]

    @classmethod
    def from_json(cls, parts: Sequence[dict[str, Any]]) -> Plan:
        """The plan that `to_json` wrote."""
        return cls([Part(**part) for part in parts])


@dataclass(frozen=True)
class ProcessShard:
    """Every `count`-th batch, from the one with number `index` on; by default all."""

    index: int = 0
    count: int = 1

    def has(self, batch: Batch) -> bool:
        """Whether the batch is this process's."""
        return batch.number % self.count == self.index
