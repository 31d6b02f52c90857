"""Reads the specifications of tables from the JSON files in `tables/`.

A file has the fields

    shows         the paper's tables or figures that it reproduces: ["table6", "table11"]; empty for sensitivity tables
    group         name that chooses all tables of another method, such as "c3po"; `all` leaves these tables out
    title         title of the table
    question      the question that the table answers
    kind          key of `kinds.KINDS`, which adds columns, tables and notes
    samples       number of questions of each test set, unless `--limit` is passed
    settings      settings under which the rows are run: "own" (the model's own preset), "paper" or "c3po"
    variants      settings of the port, each of which makes a model of its own: ["", "scope=image"]; default [""]
    optional      a row whose needs the model does not meet is reported as not run
    paper         the paper's table that has numbers for the rows
    base          the row of the paper's Table 2 for the untouched model, if it is part of the ordering
    common        preset changes of all rows
    rows          rows by name, with the fields of `RowSpec`; or
    grid          preset fields and their values: a row for every combination
    rivals        add a row for each of `RIVALS` and `BASELINES` of `rivals/table.py`
    detailed      record every step and neighbor, as the report needs them
    answer_steps  names of the rows whose answer after every step is generated

A preset change is written as `block.field`, such as `descent.steps`.
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
from r2t2_jax.methods import BASE, preset_of
from r2t2_jax.reproduction.paper import paper_rows
from r2t2_jax.rivals.table import BASELINES, RIVALS

ALL = "all"
TABLE_OF_METHODS = "table2"  # of the paper; it has the numbers of the untouched models
OWN, PAPER, C3PO = "own", "paper", "c3po"
SETTINGS = (OWN, PAPER, C3PO)
FIELDS = (
    "shows",
    "group",
    "title",
    "question",
    "kind",
    "samples",
    "settings",
    "variants",
    "optional",
    "paper",
    "base",
    "common",
    "rows",
    "grid",
    "rivals",
    "detailed",
    "answer_steps",
)


@dataclass(frozen=True)
class Condition:
    """A restriction of what a strategy works with; the default is all references and the router's weights.

    Args:
        share: share of the references, chosen at random.
        draw: seed of that choice.
        keep_wrong: incorrectly answered references are also neighbors.
        other_families: only references of other families than the question's are neighbors.
        same_family: only references of the question's family are neighbors, if it has enough of them.
        start: the starting point r0, the router's weights or uniform weights.
        core_experts: number of experts per group, those with the largest router weights; the others get weight zero.
        last_layers: number of last layers whose weights are optimized; the others keep the router's weights.
        embedder: embedder of the questions; empty for the model's own.
    """

    share: float = 1.0
    draw: int = 0
    keep_wrong: bool = False
    other_families: bool = False
    same_family: bool = False
    start: Literal["router", "uniform"] = "router"
    core_experts: int | None = None
    last_layers: int | None = None
    embedder: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise R2T2Error(f"a share of {self.share} of the references; it must be above 0 and at most 1")
        if self.start not in ("router", "uniform"):
            raise R2T2Error(f"start {self.start!r}; choose router or uniform")
        if self.other_families and self.same_family:
            raise R2T2Error("other_families and same_family exclude each other; choose one of them")
        for name in ("core_experts", "last_layers"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise R2T2Error(f"{name} {number}; it must be at least 1")


@dataclass(frozen=True)
class RowSpec:
    """A row of a table.

    Args:
        name: name of the row.
        strategy: name of the strategy.
        settings: settings that replace those of the table: own, paper or c3po; empty for the table's. A model without
            settings of its own runs a row under `own` under the table's.
        preset: changes of the settings.
        condition: what the strategy works with.
        paper: name of the paper's row with the same settings; empty if there is none.
    """

    name: str
    strategy: str = "ngd"
    settings: str = ""
    preset: Mapping[str, Any] = field(default_factory=dict)
    condition: Condition = field(default_factory=Condition)
    paper: str = ""


@dataclass(frozen=True)
class Table:
    """The specification of a table; the module docstring describes the fields."""

    name: str
    shows: tuple[str, ...]
    title: str
    question: str
    kind: str
    samples: int
    settings: tuple[str, ...]
    paper: str
    base: str
    rows: tuple[RowSpec, ...]
    rivals: bool
    detailed: bool
    answer_steps: tuple[str, ...]
    group: str = ""
    variants: tuple[str, ...] = ("",)
    optional: bool = False

    @property
    def paper_rows(self) -> Mapping[str, Mapping[str, float]]:
        """The paper's rows by name; empty if the paper has no such table."""
        return paper_rows(self.paper) if self.paper else {}

    @property
    def base_row(self) -> RowSpec:
        """The row of the untouched model, the first row of every table."""
        return RowSpec(BASE, BASE, paper=self.base)

    def paper_row(self, row: RowSpec) -> Mapping[str, float] | None:
        """The paper's numbers of a row, if it has any."""
        if not row.paper:
            return None
        return paper_rows(TABLE_OF_METHODS)[row.paper] if row.name == BASE else self.paper_rows[row.paper]


@cache
def load_tables() -> dict[str, Table]:
    """Every table by name: the paper's tables, its figures, then the others."""
    folder = files("r2t2_jax.reproduction").joinpath("tables")
    tables = [
        parse_table(entry.name.removesuffix(".json"), json.loads(entry.read_text(encoding="utf-8")))
        for entry in folder.iterdir()
        if entry.name.endswith(".json")
    ]
    return {table.name: table for table in sorted(tables, key=_order)}


def choose_tables(name: str) -> list[Table]:
    """The tables with this name, the paper's or that of a group: `table11` is a part of `table6`.

    `all` returns every table that is in no group.

    Raises:
        R2T2Error: there is no such table.
    """
    known = load_tables()
    if name == ALL:
        return [table for table in known.values() if not table.group]
    tables = [table for table in known.values() if name in (table.name, *table.shows, table.group)]
    if not tables:
        names = {label for table in known.values() for label in (table.name, *table.shows, table.group) if label}
        raise R2T2Error(f"unknown table {name!r}; choose one of {', '.join(sorted(names, key=_natural))}, or {ALL}")
    return tables


def parse_table(name: str, content: Mapping[str, Any]) -> Table:
    """The specification in the content of a file.

    Raises:
        R2T2Error: a field or a setting of a row is unknown, or the paper has no such table or row.
    """
    unknown = sorted(set(content) - set(FIELDS))
    if unknown:
        raise R2T2Error(f"table {name} has unknown fields {unknown}; known are {', '.join(FIELDS)}")
    entries = {**content.get("rows", {}), **_grid(content.get("grid", {}))}
    if content.get("rivals"):
        entries |= {rival: {"strategy": rival} for rival in (*RIVALS, *BASELINES) if rival not in entries}
    common = content.get("common", {})
    entries = {key: {**entry, "preset": {**common, **entry.get("preset", {})}} for key, entry in entries.items()}
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
        rows=tuple(parse_row(key, entry, f"table {name}") for key, entry in entries.items()),
        rivals=content.get("rivals", False),
        detailed=content.get("detailed", False),
        answer_steps=tuple(content.get("answer_steps", ())),
        group=content.get("group", ""),
        variants=tuple(content.get("variants", ("",))),
        optional=content.get("optional", content.get("rivals", False)),
    )
    unknown = sorted({*table.settings, *(row.settings for row in table.rows if row.settings)} - set(SETTINGS))
    if unknown:
        raise R2T2Error(f"table {name} has unknown settings {unknown}; known are {', '.join(SETTINGS)}")
    for row in table.rows:
        preset_of(row.preset, f"table {name}")  # reports unknown settings when the file is read
        if row.paper and row.paper not in table.paper_rows:
            raise R2T2Error(f"table {name}: the paper's {table.paper} has no row {row.paper!r}")
    return table


def parse_row(name: str, entry: Mapping[str, Any], where: str) -> RowSpec:
    """A row of a file: the fields of `RowSpec`, with those of `Condition` under `condition`.

    Raises:
        R2T2Error: a field is unknown or out of range; the message starts with `where`.
    """
    condition = entry.get("condition", {})
    for part, content, schema in (("row", entry, RowSpec), ("condition", condition, Condition)):
        unknown = sorted(set(content) - {known.name for known in dataclasses.fields(schema)})
        if unknown:
            raise R2T2Error(f"{where}: row {name!r} has unknown fields {unknown} in its {part}")
    try:
        return RowSpec(name, **{**entry, "condition": Condition(**condition)})
    except R2T2Error as error:
        raise R2T2Error(f"{where}: row {name!r}: {error}") from error


def _grid(values: Mapping[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """A row for every combination of values, named by its values."""
    if not values:
        return {}
    combinations = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    return {", ".join(map(str, preset.values())): {"preset": preset} for preset in combinations}


def _order(table: Table) -> tuple[int, int, str]:
    if table.group:
        return 3, 0, table.name
    number = "".join(letter for letter in table.name if letter.isdigit())
    return ("table", "figure").index(table.name.rstrip("0123456789")) if number else 2, int(number or 0), table.name


def _natural(name: str) -> tuple[str, int]:
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)
