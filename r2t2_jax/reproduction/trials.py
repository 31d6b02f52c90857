"""One row of a table: a strategy, its settings, and what it is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class Given:
    """What a strategy has to work with, where it is not all references and the router's own weights.

    Args:
        share: of the references, drawn by the seed `draw`.
        draw: seed of that draw.
        keep_wrong: references which the model answers wrongly are neighbours like any other.
        foreign: only references of other families than the question's.
        start: what stands in the place of the router's weights r0.
        core_experts: so many experts of each group, those with most router weight, may be used; the others weigh zero.
        last_layers: so many layers, the last ones, may move; the others keep the router's weights.
        embedder: what finds like questions; empty for the model's own.
    """

    share: float = 1.0
    draw: int = 0
    keep_wrong: bool = False
    foreign: bool = False
    start: Literal["router", "uniform"] = "router"
    core_experts: int | None = None
    last_layers: int | None = None
    embedder: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise R2T2Error(f"a share of {self.share} of the references; it must be above 0 and at most 1")
        if self.start not in ("router", "uniform"):
            raise R2T2Error(f"a start from {self.start!r}; choose router or uniform")
        for name in ("core_experts", "last_layers"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise R2T2Error(f"{name} {number}; it must be at least 1")


@dataclass(frozen=True)
class Trial:
    """A row: `preset` changes the settings under which the table is run, `paper` names the paper's row beside it."""

    name: str
    strategy: str = "ngd"
    preset: Mapping[str, Any] = field(default_factory=dict)
    given: Given = field(default_factory=Given)
    paper: str = ""


def trial_of(name: str, entry: Mapping[str, Any], where: str) -> Trial:
    """A row as a file has it: fields of `Trial`, those of `Given` under `given`.

    Raises:
        R2T2Error: a field is unknown or out of range; `where` is named.
    """
    given = entry.get("given", {})
    for what, found, known in (("row", entry, Trial), ("given", given, Given)):
        unknown = sorted(set(found) - {one.name for one in dataclasses.fields(known)})
        if unknown:
            raise R2T2Error(f"{where}: row {name!r} has unknown fields {unknown} in its {what}")
    try:
        return Trial(name, **{**entry, "given": Given(**given)})
    except R2T2Error as error:
        raise R2T2Error(f"{where}: row {name!r}: {error}") from error
