"""A prepared unit: a split of a set, whole or a subset of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from r2t2_jax.errors import R2T2Error

VERSION = "1.0.0"  # of what is stored of a question


WHOLE = "whole"  # stands for all splits of a set whose files name them
_NAME = re.compile(r"\w[\w .-]*")


@dataclass(frozen=True)
class Unit:
    """Which part of a set is meant: a split (empty for all of a set without splits), or n questions of it by a seed.

    Raises:
        R2T2Error: the split cannot be the name of a folder, or is `all` or `whole`, which mean something else.
    """

    split: str
    n: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split and (self.split in ("all", WHOLE) or not _NAME.fullmatch(self.split)):
            raise R2T2Error(f"{self.split!r} cannot name a split: take letters, digits, -, _ and . (not all, whole)")

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.stored_split + ("" if self.n is None else f"-n{self.n}-seed{self.seed}")

    @property
    def stored_split(self) -> str:
        """What the split is called on disk."""
        return self.split or WHOLE
