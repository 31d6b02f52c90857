"""A prepared unit: a split of a set, whole or a subset of it."""

from __future__ import annotations

from dataclasses import dataclass

VERSION = "1.0.0"  # of what is stored of a question


@dataclass(frozen=True)
class Unit:
    """Which part of a set is meant: a split (empty for all of a set without splits), or n questions of it by a seed."""

    split: str
    n: int | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """The folder's name."""
        return (self.split or "all") + ("" if self.n is None else f"-n{self.n}-seed{self.seed}")
