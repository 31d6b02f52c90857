"""What has to be measured for some tables: every row that differs once, whatever tables show it.

Two rows are the same if their strategies have the same numbers and are given the same. So the Gaussian kernel of one
table is the k = 5 of another, and a setting that a strategy does not read makes no difference to it.

A run goes through the questions block by block and asks every row about a block before the next: what a block's
questions are encoded to is needed no longer than that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2t2_jax.contract import Port, Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.registry import GROUP
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.benchmark import REFERENCES, part_name, title_of
from r2t2_jax.evaluation.evaluator import order_by_program
from r2t2_jax.evaluation.setup import metric_for, with_embedder
from r2t2_jax.method.presets import PAPER as PAPER_PRESET
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import Method, find_preset, method_of, own_preset
from r2t2_jax.metrics import Metric
from r2t2_jax.plugins import load, registered
from r2t2_jax.reproduction.spec import BASE, OWN, PAPER, Condition, Table, Trial
from r2t2_jax.retrieval.hashed_bag_of_words import question_embedder
from r2t2_jax.runs.plan import Part

TEST = "test"  # the split of a set that is drawn; a set of files has one for testing, its first
TOGETHER = {"pocket": ("pocket:narrow", "pocket:balanced")}  # a model with two gates is two models, as in `r2t2 demo`


@dataclass(frozen=True)
class EvalTarget:
    """One model on one test set.

    `name` stands in the rows: the port's, and where it is asked several sets the set's too. `model` is what `load` was
    asked for.
    """

    name: str
    model: str
    port: Port
    data: str
    samples: tuple[Sample, ...]
    metric: Metric


def model_names(model: str) -> tuple[str, ...]:
    """The models that a name stands for."""
    return TOGETHER.get(model, (model,))


def open_subjects(model: str, data: Sequence[str], n: int | None, seed: int, embedder: str = "") -> list[EvalTarget]:
    """Every model a name stands for, on every set.

    Args:
        model: as `loading.load` takes it; `pocket` stands for both of its gates.
        data: sets to ask; by default the one registered under the model's name.
        n: questions of each set; `None` for all.
        seed: which ones.
        embedder: what finds like questions; empty for the model's own.

    Raises:
        R2T2Error: no such model or set, or no set goes with the model.
    """
    names = model_names(model)
    ports = dict(zip(names, with_embedder([load(name) for name in names], embedder), strict=True))
    sets = list(data) or [_own_set(next(iter(ports.values())))]
    asked = {name: tuple(load_dataset(**source_of(name, n, seed))) for name in sets}
    return [
        EvalTarget(title if len(sets) == 1 else title_of(title, name), model, port, name, samples, metric_for(name, ""))
        for model, port in ports.items()
        for name, samples in asked.items()
        for title in [port.name]
    ]


def source_of(name: str, n: int | None, seed: int) -> dict[str, Any]:
    """What `load_dataset` is asked for; a run says it, so that a report finds the images."""
    return {"name": name, "split": TEST if name in registered(GROUP) else "", "n": n, "seed": seed}


def _own_set(port: Port) -> str:
    name = port.name.partition(":")[0]
    if name not in registered(GROUP):
        raise R2T2Error(f"no set of questions is registered for {name}: name the sets to ask with --data")
    return name


ROWS, SWEEP = "rows", "sweep"  # what the report reads; rows without neighbours and paths


@dataclass(frozen=True)
class Measurement:
    """What one strategy answers to the first `cases` questions of a subject.

    Args:
        label: its name in the rows.
        method: the strategy.
        given: what it works with.
        cases: how many questions.
        detailed: whether neighbours and paths are kept.
        along: whether the answer after every step is wanted too.
        optional: whether a model that cannot do it is told so and goes on, as with some rivals.
    """

    label: str
    method: Method
    given: Condition
    cases: int
    detailed: bool
    along: bool
    optional: bool

    def also(self, other: Measurement) -> Measurement:
        """What serves both."""
        return dataclasses.replace(
            self,
            cases=max(self.cases, other.cases),
            detailed=self.detailed or other.detailed,
            along=self.along or other.along,
            optional=self.optional and other.optional,
        )


@dataclass(frozen=True)
class Cell:
    """Where a row of a table finds its numbers: the label of a measurement, or why there are none."""

    trial: Trial
    label: str = ""
    not_run: str = ""


@dataclass(frozen=True)
class Block:
    """Questions `start` to `stop` of a subject, as a part of the run: each of its cases is one measurement of them."""

    part: str
    start: int
    stop: int
    labels: tuple[str, ...]
    table: str


@dataclass(frozen=True)
class SubjectPlan:
    """Measurements of a subject by label, and the rows of each table under each setting."""

    subject: str
    measurements: Mapping[str, Measurement]
    cells: Mapping[tuple[str, str], Sequence[Cell]]

    @property
    def most(self) -> int:
        """Questions that anybody is asked."""
        return max(one.cases for one in self.measurements.values())

    @property
    def detailed(self) -> list[Measurement]:
        """Those which a report shows."""
        return [one for one in self.measurements.values() if one.detailed]

    @property
    def references(self) -> str:
        """The part that keeps what reports tell of the references; empty where there is no report."""
        return part_name(self.subject, REFERENCES) if self.detailed else ""

    def blocks(self, size: int) -> list[Block]:
        """The blocks in order, of so many questions each."""
        order = order_by_program({label: one.method for label, one in self.measurements.items()})
        found = []
        for start in range(0, self.most, size):
            stop = min(start + size, self.most)
            for table in (ROWS, SWEEP):
                asked = [self.measurements[label] for label in order if self.measurements[label].cases > start]
                labels = tuple(one.label for one in asked if one.detailed == (table == ROWS))
                if labels:
                    name = part_name(self.subject, f"{table} {start + 1}-{stop}")
                    found.append(Block(name, start, stop, labels, table))
        return found

    def parts(self, size: int) -> list[Part]:
        """The parts of the run."""
        references = [Part(self.references, 1, 1, table=REFERENCES)] if self.references else []
        return references + [Part(block.part, len(block.labels), 1, block.table) for block in self.blocks(size)]


def presets_of(port: Port) -> dict[str, Preset]:
    """The settings under which rows are run: the model's own, where it has any, and the paper's."""
    name = own_preset(port.name, port.presets)
    own = {} if name == PAPER else {OWN: find_preset(name, port.presets)}
    return own | {PAPER: PAPER_PRESET}


def plan_subject(
    subject: EvalTarget, tables: Sequence[Table], samples: int | None, embedders: Path | None = None
) -> SubjectPlan:
    """The plan of one subject.

    Args:
        subject: who is asked.
        tables: what is wanted.
        samples: questions of a set; by default each table's own number. A set has no more than it has.
        embedders: folder of embedders' model directories, by their names.
    """
    return plan_rows(subject.name, presets_of(subject.port), len(subject.samples), tables, samples, embedders)


def plan_rows(
    subject: str,
    presets: Mapping[str, Preset],
    most: int,
    tables: Sequence[Table],
    samples: int | None,
    embedders: Path | None = None,
) -> SubjectPlan:
    """The plan of a subject of which only this much is known: its name, its settings, and how many questions it has.

    Arguments otherwise as `plan_subject`.
    """
    known: dict[tuple[str, Condition], Measurement] = {}
    cells: dict[tuple[str, str], list[Cell]] = {}

    def add(table: Table, setting: str, trial: Trial) -> Cell:
        found = found_embedder(trial.given.embedder, embedders)
        trial = dataclasses.replace(trial, given=dataclasses.replace(trial.given, embedder=found))
        reason = missing_embedder(found)
        if reason:
            return Cell(trial, not_run=reason)
        method = method_of(trial.strategy, presets[setting].with_settings(trial.preset))
        cases = min(samples or table.samples, most)
        label, along = _label(table, setting, trial, list(presets)), trial.name in table.along
        wanted = Measurement(label, method, trial.given, cases, table.detailed, along, table.rivals)
        key = repr(method), trial.given
        known[key] = known[key].also(wanted) if key in known else wanted
        return Cell(trial, known[key].label)

    ordered = sorted(tables, key=lambda table: not table.detailed)  # whose labels are plain names of strategies
    for table in ordered:
        for setting in _settings(table, presets):
            base = add(table, setting, table.untouched)
            cells[table.name, setting] = [base, *(add(table, setting, trial) for trial in table.trials)]
    return SubjectPlan(subject, {one.label: one for one in known.values()}, cells)


def _settings(table: Table, presets: Mapping[str, Preset]) -> list[str]:
    """Those under which a table is run; a model without settings of its own runs it under the paper's."""
    return [setting for setting in presets if setting in table.settings] or [PAPER]


def _label(table: Table, setting: str, trial: Trial, settings: Sequence[str]) -> str:
    """`ngd` and `ngd_paper` in the report's rows, `table6/own/linear` elsewhere; `base` is the same everywhere."""
    if trial.strategy == BASE and trial.given == Condition():
        return BASE
    if table.detailed:
        return trial.name if setting == settings[0] else f"{trial.name}_{setting}"
    return f"{table.name}/{setting}/{trial.name}"


def found_embedder(name: str, folder: Path | None) -> str:
    """An embedder's name, with its model directory where the folder has one of that name."""
    there = folder is not None and name and (folder / name).is_dir()
    return f"{name}:{folder / name}" if there and folder is not None else name


def missing_embedder(name: str) -> str:
    """Why an embedder cannot be had; empty if it can."""
    if not name:
        return ""
    try:
        question_embedder(name)
    except (R2T2Error, ImportError) as error:
        return str(error)
    return ""
