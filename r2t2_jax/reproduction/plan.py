"""What has to be measured for some tables: every row that differs once, whatever tables show it.

Two rows are the same if their strategies have the same numbers and are given the same. So the Gaussian kernel of one
table is the k = 5 of another, and a setting that a strategy does not read makes no difference to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r2t2_jax.contract import Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.lookup import Method
from r2t2_jax.evaluation.questions import BATCH
from r2t2_jax.evaluation.recording import part_name
from r2t2_jax.hashed_words import question_embedder
from r2t2_jax.presets import PAPER as PAPER_PRESET
from r2t2_jax.presets import Preset, find_preset, own_preset
from r2t2_jax.reproduction.subjects import Subject
from r2t2_jax.reproduction.tables import OWN, PAPER, Table
from r2t2_jax.reproduction.trials import Given, Trial
from r2t2_jax.runs.plan import Part
from r2t2_jax.strategies import strategy

BASE = "base"
SWEEP = "sweep"  # the table of rows without steps and neighbours


@dataclass(frozen=True)
class Measurement:
    """A part of the run: what one strategy answers to the first `cases` questions of a subject."""

    subject: str
    label: str
    method: Method
    given: Given
    cases: int
    detailed: bool

    @property
    def part(self) -> str:
        return part_name(self.subject, self.label)


@dataclass(frozen=True)
class Cell:
    """Where a row of a table finds its numbers: the label of a measurement, or why there are none."""

    trial: Trial
    label: str = ""
    not_run: str = ""


@dataclass(frozen=True)
class SubjectPlan:
    """Measurements of a subject by label, and the rows of each table under each setting."""

    measurements: Mapping[str, Measurement]
    cells: Mapping[tuple[str, str], Sequence[Cell]]


def presets_of(port: Port) -> dict[str, Preset]:
    """The settings under which rows are run: the model's own, where it has any, and the paper's."""
    name = own_preset(port.name, port.presets)
    own = {} if name == PAPER else {OWN: find_preset(name, port.presets)}
    return own | {PAPER: PAPER_PRESET}


def plan_subject(subject: Subject, tables: Sequence[Table], samples: int | None) -> SubjectPlan:
    """The plan of one subject.

    Args:
        subject: who is asked.
        tables: what is wanted.
        samples: questions of a set; by default each table's own number. A set has no more than it has.
    """
    presets = presets_of(subject.port)
    known: dict[tuple[str, Given], Measurement] = {}
    cells: dict[tuple[str, str], list[Cell]] = {}

    def add(table: Table, setting: str, trial: Trial) -> Cell:
        reason = missing_embedder(trial.given.embedder)
        if reason:
            return Cell(trial, not_run=reason)
        method = strategy(trial.strategy, dataclasses.replace(presets[setting], **trial.preset))
        key = repr(dataclasses.replace(method, name="")), trial.given
        cases = min(samples or table.samples, len(subject.samples))
        there = known.get(key)
        if there is None:
            label = _label(table, setting, trial, list(presets))
            known[key] = Measurement(subject.name, label, method, trial.given, cases, table.detailed)
        else:
            known[key] = dataclasses.replace(
                there, cases=max(there.cases, cases), detailed=there.detailed or table.detailed
            )
        return Cell(trial, known[key].label)

    ordered = sorted(tables, key=lambda table: not table.detailed)  # whose labels are plain names of strategies
    for table in ordered:
        for setting in [setting for setting in presets if setting in table.settings]:
            base = add(table, setting, Trial(BASE, BASE))
            cells[table.name, setting] = [base, *(add(table, setting, trial) for trial in table.trials)]
    return SubjectPlan({one.label: one for one in known.values()}, cells)


def _label(table: Table, setting: str, trial: Trial, settings: Sequence[str]) -> str:
    """`ngd` and `ngd_paper` in the report's rows, `table6/own/linear` elsewhere; `base` is the same everywhere."""
    if trial.strategy == BASE and trial.given == Given():
        return BASE
    if table.detailed:
        return trial.name if setting == settings[0] else f"{trial.name}_{setting}"
    return f"{table.name}/{setting}/{trial.name}"


def missing_embedder(name: str) -> str:
    """Why an embedder cannot be had; empty if it can."""
    if not name:
        return ""
    try:
        question_embedder(name)
    except (R2T2Error, ImportError) as error:
        return str(error)
    return ""


def parts_of(plans: Sequence[SubjectPlan]) -> list[Part]:
    """The parts of a run."""
    return [
        Part(one.part, one.cases, min(BATCH, one.cases), "rows" if one.detailed else SWEEP)
        for plan in plans
        for one in plan.measurements.values()
    ]
