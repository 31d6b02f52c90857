"""The tables there are, as the files in `tables/` describe them.

A file holds

    shows      what it reproduces of the paper: ["table6", "table11"]; empty for what the paper does not show
    title, question    what it compares, and what it asks
    kind       how its result is worked out and shown (`results.py`)
    samples    questions of each set on pocket's scale; `--samples` says otherwise
    settings   under which settings its rows are run: "own", the model's own preset, and "paper"
    paper      the paper's table whose rows stand beside ours
    base       the row of the paper's Table 2 beside the untouched model, where that is part of the ordering
    common     settings that all rows change
    rows       by name, as `trials.Trial`; or
    grid       fields of the preset and the values each takes: a row for every combination
    rivals     whether a row for each rival stands below: `RIVALS` and `BASELINES` of `rivals/table.py`
    detailed   whether every step and neighbour is kept, as the report wants them
    along      the rows whose answer after every step is wanted
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from r2t2_jax.errors import R2T2Error
from r2t2_jax.methods import BASELINES, preset_of
from r2t2_jax.reproduction.paper import paper_rows
from r2t2_jax.rivals.table import RIVALS


@dataclass(frozen=True)
class Condition:
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
    given: Condition = field(default_factory=Condition)
    paper: str = ""


def trial_of(name: str, entry: Mapping[str, Any], where: str) -> Trial:
    """A row as a file has it: fields of `Trial`, those of `Condition` under `given`.

    Raises:
        R2T2Error: a field is unknown or out of range; `where` is named.
    """
    given = entry.get("given", {})
    for what, found, known in (("row", entry, Trial), ("given", given, Condition)):
        unknown = sorted(set(found) - {one.name for one in dataclasses.fields(known)})
        if unknown:
            raise R2T2Error(f"{where}: row {name!r} has unknown fields {unknown} in its {what}")
    try:
        return Trial(name, **{**entry, "given": Condition(**given)})
    except R2T2Error as error:
        raise R2T2Error(f"{where}: row {name!r}: {error}") from error


ALL, BASE = "all", "base"
METHODS = "table2"  # of the paper, where its numbers of the untouched models are
OWN, PAPER = "own", "paper"
FIELDS = (
    "shows",
    "title",
    "question",
    "kind",
    "samples",
    "settings",
    "paper",
    "base",
    "common",
    "rows",
    "grid",
    "rivals",
    "detailed",
    "along",
)


@dataclass(frozen=True)
class Table:
    """A file of `tables/`, read."""

    name: str
    shows: tuple[str, ...]
    title: str
    question: str
    kind: str
    samples: int
    settings: tuple[str, ...]
    paper: str
    base: str
    trials: tuple[Trial, ...]
    rivals: bool
    detailed: bool
    along: tuple[str, ...]

    @property
    def paper_rows(self) -> Mapping[str, Mapping[str, float]]:
        """The paper's rows by name; none where the paper has no such table."""
        return paper_rows(self.paper) if self.paper else {}

    @property
    def untouched(self) -> Trial:
        """The row of the untouched model, which every table begins with."""
        return Trial(BASE, BASE, paper=self.base)

    def paper_row(self, trial: Trial) -> Mapping[str, float] | None:
        """The paper's numbers beside a row."""
        if not trial.paper:
            return None
        return paper_rows(METHODS)[trial.paper] if trial.name == BASE else self.paper_rows[trial.paper]


@cache
def tables() -> dict[str, Table]:
    """Every table by name, those of the paper first."""
    folder = files("r2t2_jax.reproduction").joinpath("tables")
    found = [
        table_of(entry.name.removesuffix(".json"), json.loads(entry.read_text(encoding="utf-8")))
        for entry in folder.iterdir()
        if entry.name.endswith(".json")
    ]
    return {table.name: table for table in sorted(found, key=_order)}


def _order(table: Table) -> tuple[int, int, str]:
    number = "".join(letter for letter in table.name if letter.isdigit())
    return ("table", "figure").index(table.name.rstrip("0123456789")) if number else 2, int(number or 0), table.name


def choose_tables(name: str) -> list[Table]:
    """The tables called `name`, under their own name or the paper's: `table11` is shown by `table6`; `all` of them.

    Raises:
        R2T2Error: there is none.
    """
    known = tables()
    if name == ALL:
        return list(known.values())
    chosen = [table for table in known.values() if name == table.name or name in table.shows]
    if not chosen:
        shown = {one for table in known.values() for one in (table.name, *table.shows)}
        raise R2T2Error(f"unknown table {name!r}; choose one of {', '.join(sorted(shown, key=_natural))}, or {ALL}")
    return chosen


def _natural(name: str) -> tuple[str, int]:
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)


def table_of(name: str, content: Mapping[str, Any]) -> Table:
    """A table as its file describes it.

    Raises:
        R2T2Error: a field is unknown, a row's setting is unknown, or the paper has no such table or row.
    """
    unknown = sorted(set(content) - set(FIELDS))
    if unknown:
        raise R2T2Error(f"table {name} has unknown fields {unknown}; known are {', '.join(FIELDS)}")
    rows = {**content.get("rows", {}), **_grid(content.get("grid", {}))}
    if content.get("rivals"):
        rows |= {rival: {"strategy": rival} for rival in (*RIVALS, *BASELINES) if rival not in rows}
    common = content.get("common", {})
    rows = {key: {**entry, "preset": {**common, **entry.get("preset", {})}} for key, entry in rows.items()}
    table = Table(
        name=name,
        shows=tuple(content["shows"]),
        title=content["title"],
        question=content["question"],
        kind=content["kind"],
        samples=content["samples"],
        settings=tuple(content["settings"]),
        paper=content.get("paper", ""),
        base=content.get("base", ""),
        trials=tuple(trial_of(key, entry, f"table {name}") for key, entry in rows.items()),
        rivals=content.get("rivals", False),
        detailed=content.get("detailed", False),
        along=tuple(content.get("along", ())),
    )
    for trial in table.trials:
        preset_of(trial.preset, f"table {name}")  # an unknown setting is refused when the file is read
        if trial.paper and trial.paper not in table.paper_rows:
            raise R2T2Error(f"table {name}: the paper's {table.paper} has no row {trial.paper!r}")
    return table


def _grid(values: Mapping[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """A row for every combination, called by its values."""
    if not values:
        return {}
    combinations = [dict(zip(values, some, strict=True)) for some in itertools.product(*values.values())]
    return {", ".join(map(str, preset.values())): {"preset": preset} for preset in combinations}
