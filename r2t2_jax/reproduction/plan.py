"""Plans the measurements for some tables; a row that occurs in several tables is measured once.

Two rows are equal if their strategies have equal numbers and equal conditions. So the Gaussian kernel of one table is
the k = 5 of another, and a setting that a strategy does not read makes no difference.

A run processes the questions block by block, with every measurement of a block before the next block: the encoded
questions of a block are then needed only for that time.
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
from r2t2_jax.evaluation.question_sets import limits_by_set, with_longest_answer
from r2t2_jax.evaluation.setup import metric_for, with_decoding, with_embedder
from r2t2_jax.method.presets import PAPER as PAPER_PRESET
from r2t2_jax.method.presets import PRESETS, Preset
from r2t2_jax.methods import BASE, Method, find_preset, method_of, own_preset
from r2t2_jax.metrics import Metric
from r2t2_jax.plugins import load, registered
from r2t2_jax.reproduction.spec import C3PO, OWN, PAPER, Condition, RowSpec, Table
from r2t2_jax.retrieval.hashed_bag_of_words import question_embedder
from r2t2_jax.runs.plan import Part

TEST = "test"  # split of a synthetic dataset; a dataset of files is evaluated on its default split
MODEL_VARIANTS = {"pocket": ("pocket:narrow", "pocket:balanced")}  # one name for several models, as in `r2t2 demo`
ROWS, SWEEP = "rows", "sweep"  # stored rows: with the details that the report reads, and without them


@dataclass(frozen=True)
class EvalTarget:
    """One model on one test set.

    Args:
        name: the name in the rows: the port's, followed by the dataset's if there are several datasets.
        model: the name under which the model was loaded.
        port: the model.
        data: name of the dataset.
        samples: the test samples.
        metric: scores an answer.
        variant: the settings of the port that a table adds to the model's name.
    """

    name: str
    model: str
    port: Port
    data: str
    samples: tuple[Sample, ...]
    metric: Metric
    variant: str = ""


@dataclass(frozen=True)
class Measurement:
    """One strategy, evaluated on the first `samples` questions of a target.

    Args:
        label: its name in the stored rows.
        method: the strategy.
        condition: what the strategy works with.
        samples: number of questions.
        detailed: record neighbors and paths.
        answer_steps: also generate the answer after every step.
        optional: if the model lacks what the method needs, record that and continue.
    """

    label: str
    method: Method
    condition: Condition
    samples: int
    detailed: bool
    answer_steps: bool
    optional: bool

    def merge(self, other: Measurement) -> Measurement:
        """A measurement that serves both."""
        return dataclasses.replace(
            self,
            samples=max(self.samples, other.samples),
            detailed=self.detailed or other.detailed,
            answer_steps=self.answer_steps or other.answer_steps,
            optional=self.optional and other.optional,
        )


@dataclass(frozen=True)
class PlannedRow:
    """A row of a table with the label of its measurement, or the reason why it is not run."""

    spec: RowSpec
    label: str = ""
    not_run: str = ""

    @property
    def name(self) -> str:
        """The name of the row."""
        return self.spec.name


@dataclass(frozen=True)
class QuestionBlock:
    """Questions `start` to `stop` of a target as a part of the run; each entry of `labels` is one measurement."""

    part: str
    start: int
    stop: int
    labels: tuple[str, ...]
    table: str


@dataclass(frozen=True)
class TargetPlan:
    """The measurements of a target by label, and its rows by table and setting."""

    target: str
    measurements: Mapping[str, Measurement]
    rows: Mapping[tuple[str, str], Sequence[PlannedRow]]

    @property
    def max_samples(self) -> int:
        """The largest number of questions of a measurement."""
        return max(measurement.samples for measurement in self.measurements.values())

    @property
    def required(self) -> dict[str, Method]:
        """The methods of the measurements that are not optional, by label."""
        return {label: each.method for label, each in self.measurements.items() if not each.optional}

    @property
    def detailed(self) -> list[Measurement]:
        """The measurements that the report shows."""
        return [measurement for measurement in self.measurements.values() if measurement.detailed]

    @property
    def references(self) -> str:
        """Name of the part that stores the references for the report; empty without a report."""
        return part_name(self.target, REFERENCES) if self.detailed else ""

    def blocks(self, size: int) -> list[QuestionBlock]:
        """The blocks in order, of `size` questions each."""
        order = order_by_program({label: measurement.method for label, measurement in self.measurements.items()})
        blocks = []
        for start in range(0, self.max_samples, size):
            stop = min(start + size, self.max_samples)
            measurements = [self.measurements[label] for label in order if self.measurements[label].samples > start]
            for table in (ROWS, SWEEP):
                labels = tuple(each.label for each in measurements if each.detailed == (table == ROWS))
                if labels:
                    name = part_name(self.target, f"{table} {start + 1}-{stop}")
                    blocks.append(QuestionBlock(name, start, stop, labels, table))
        return blocks

    def parts(self, size: int) -> list[Part]:
        """The parts of the run."""
        references = [Part(self.references, 1, 1, table=REFERENCES)] if self.references else []
        return references + [Part(block.part, len(block.labels), 1, block.table) for block in self.blocks(size)]


def model_names(model: str) -> tuple[str, ...]:
    """The models that a name refers to."""
    return MODEL_VARIANTS.get(model, (model,))


def open_targets(
    model: str,
    data: Sequence[str],
    n: int | None,
    seed: int,
    embedder: str = "",
    beams: int = 1,
    max_new_tokens: str = "",
    variants: Sequence[str] = ("",),
) -> list[EvalTarget]:
    """Every model that a name refers to, in every variant, on every dataset.

    Args:
        model: as `plugins.load` takes it; `pocket` refers to both of its gates.
        data: names of datasets; by default the one registered under the model's name.
        n: number of questions of each dataset; `None` for all.
        seed: seed of the choice of questions.
        embedder: embedder of the questions; empty for the model's own.
        beams: of the decoding; 1 is greedy.
        max_new_tokens: longest answer, also by dataset; empty for the port's number for each dataset.
        variants: settings of the port that are added to the model's name (`Table.variants`). They do not change the
            parameters, so all variants share those of the first.

    Raises:
        R2T2Error: unknown model, variant or dataset, no dataset is registered for the model, or as `with_decoding` and
            `limits_by_set`.
    """
    limits_by_set(max_new_tokens, list(data) or [model.partition(":")[0]])  # before a model is loaded
    names = {",".join(filter(None, (name, variant))): variant for name in model_names(model) for variant in variants}
    loaded = [with_decoding(port, beams) for port in _load_variants(model_names(model), variants)]
    ports = dict(zip(names, with_embedder(loaded, embedder), strict=True))
    datasets = list(data) or [_own_dataset(next(iter(ports.values())))]
    limits = limits_by_set(max_new_tokens, datasets)
    samples = {name: tuple(load_dataset(**dataset_source(name, n, seed))) for name in datasets}
    targets = []
    for model_name, port in ports.items():
        for name in samples:
            title = port.name if len(datasets) == 1 else title_of(port.name, name)
            answering = with_longest_answer(port, name, limits[name])
            metric, variant = metric_for(name, ""), names[model_name]
            targets.append(EvalTarget(title, model_name, answering, name, samples[name], metric, variant))
    return targets


def _load_variants(models: Sequence[str], variants: Sequence[str]) -> list[Port]:
    """The variants of each model, which share the parameters of the first."""
    ports = []
    for model in models:
        first = load(",".join(filter(None, (model, variants[0]))))
        ports.append(first)
        ports += [dataclasses.replace(load(f"{model},{each}"), params=first.params) for each in variants[1:]]
    return ports


def dataset_source(name: str, n: int | None, seed: int) -> dict[str, Any]:
    """The arguments of `load_dataset`; a run records them so that a report can load the images."""
    return {"name": name, "split": TEST if name in registered(GROUP) else "", "n": n, "seed": seed}


def presets_of(port: Port) -> dict[str, Preset]:
    """The presets under which rows are run: the model's own, if it has one, and the paper's."""
    name = own_preset(port.name, port.presets)
    own = {} if name == PAPER else {OWN: find_preset(name, port.presets)}
    return own | {PAPER: PAPER_PRESET}


def plan_target(
    target: EvalTarget, tables: Sequence[Table], samples: int | None, embedders: Path | None = None
) -> TargetPlan:
    """The plan of one target.

    Args:
        target: model and test set.
        tables: the tables to reproduce.
        samples: number of questions of the test set; by default each table's own. It is limited by the test set.
        embedders: folder of the model directories of embedders, by their names.
    """
    tables = [table for table in tables if target.variant in table.variants]
    return plan_rows(target.name, presets_of(target.port), len(target.samples), tables, samples, embedders)


def plan_rows(
    target: str,
    presets: Mapping[str, Preset],
    available: int,
    tables: Sequence[Table],
    samples: int | None,
    embedders: Path | None = None,
) -> TargetPlan:
    """The plan of a target that is not loaded.

    Args:
        target: its name.
        presets: the model's presets by setting, `own` and `paper`.
        available: number of questions of its test set.
        tables, samples, embedders: as for `plan_target`.
    """
    by_setting = {**presets, C3PO: PRESETS[C3PO]}
    known: dict[tuple[str, Condition], Measurement] = {}
    rows: dict[tuple[str, str], list[PlannedRow]] = {}

    def plan_row(table: Table, setting: str, spec: RowSpec) -> PlannedRow:
        """The row with the label of its measurement, which is entered in `known`; or why it is not run."""
        embedder = embedder_path(spec.condition.embedder, embedders)
        spec = dataclasses.replace(spec, condition=dataclasses.replace(spec.condition, embedder=embedder))
        reason = embedder_error(embedder)
        if reason:
            return PlannedRow(spec, not_run=reason)
        settings = spec.settings if spec.settings in by_setting else setting
        method = method_of(spec.strategy, by_setting[settings].with_settings(spec.preset))
        measurement = Measurement(
            label=_label(table, setting, spec, list(presets)),
            method=method,
            condition=spec.condition,
            samples=min(samples or table.samples, available),
            detailed=table.detailed,
            answer_steps=spec.name in table.answer_steps,
            optional=table.optional,
        )
        key = repr(method), spec.condition
        known[key] = known[key].merge(measurement) if key in known else measurement
        return PlannedRow(spec, known[key].label)

    ordered = sorted(tables, key=lambda table: not table.detailed)  # detailed rows are labeled by strategy names
    for table in ordered:
        for setting in _settings(table, by_setting):
            rows[table.name, setting] = [plan_row(table, setting, spec) for spec in (table.base_row, *table.rows)]
    return TargetPlan(target, {measurement.label: measurement for measurement in known.values()}, rows)


def embedder_path(name: str, folder: Path | None) -> str:
    """An embedder's name, followed by its model directory if the folder contains one with that name."""
    exists = folder is not None and name and (folder / name).is_dir()
    return f"{name}:{folder / name}" if exists and folder is not None else name


def embedder_error(name: str) -> str:
    """The reason why an embedder cannot be loaded; empty if it can."""
    if not name:
        return ""
    try:
        question_embedder(name)
    except (R2T2Error, ImportError) as error:
        return str(error)
    return ""


def _own_dataset(port: Port) -> str:
    name = port.name.partition(":")[0]
    if name not in registered(GROUP):
        raise R2T2Error(f"no dataset is registered for {name}: name the datasets with --data")
    return name


def _settings(table: Table, presets: Mapping[str, Preset]) -> list[str]:
    """The settings of a table; a model without own settings runs it under the paper's."""
    return [setting for setting in presets if setting in table.settings] or [PAPER]


def _label(table: Table, setting: str, spec: RowSpec, settings: Sequence[str]) -> str:
    """`ngd` and `ngd_paper` for rows of the report, `table6/own/linear` for others; always `base` for the base row."""
    if spec.strategy == BASE and spec.condition == Condition():
        return BASE
    if table.detailed:
        return spec.name if setting == settings[0] else f"{spec.name}_{setting}"
    return f"{table.name}/{setting}/{spec.name}"
