"""The plan of a run: parts cut into batches. It depends on the settings only, never on what is already computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class Part:
    """`samples` samples that are computed alike, `batch` at a time; their rows belong to `table`."""

    name: str
    samples: int
    batch: int
    table: str = "rows"


@dataclass(frozen=True)
class Batch:
    """Samples `start` to `stop` of a part; `number` is the batch's index in the plan."""

    number: int
    part: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """All parts of a run, in order.

    Raises:
        R2T2Error: two parts share a name, or a part has no samples or a batch size below 1.
    """

    parts: Sequence[Part]

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise R2T2Error(f"the parts of a plan need distinct names: {', '.join(self.names)}")
        for part in self.parts:
            if part.samples < 1 or part.batch < 1:
                raise R2T2Error(
                    f"part {part.name!r} has {part.samples} samples in batches of {part.batch}; both must be at least 1"
                )

    @cached_property
    def batches(self) -> tuple[Batch, ...]:
        """Every batch, in order."""
        spans = [
            (part.name, start, min(start + part.batch, part.samples))
            for part in self.parts
            for start in range(0, part.samples, part.batch)
        ]
        return tuple(Batch(number, *span) for number, span in enumerate(spans))

    @property
    def names(self) -> list[str]:
        """The names of all parts."""
        return [part.name for part in self.parts]

    def of_table(self, table: str) -> list[str]:
        """The names of the parts whose rows belong to a table."""
        return [part.name for part in self.parts if part.table == table]

    def to_json(self) -> list[dict[str, Any]]:
        """The plan as `run.json` stores it."""
        return [vars(part) for part in self.parts]

    @classmethod
    def from_json(cls, parts: Sequence[dict[str, Any]]) -> Plan:
        """The plan that `to_json` wrote."""
        return cls([Part(**part) for part in parts])
