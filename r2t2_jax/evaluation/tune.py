"""Searches settings of a strategy on validation questions, as a resumable run.

Questions are encoded once, neighbors are retrieved once for the largest k, and settings that differ only in numbers (a
learning rate, a kernel) share a compiled program.

A part of the run is one slot of one round of successive halving (`tuning_grid.py`) for one model. The setting in a slot
follows from the rows of earlier rounds, so that an interrupted search can be resumed.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import PreparedBatch
from r2t2_jax.evaluation.encode import BATCH, EncodedQuestions, encode_questions
from r2t2_jax.evaluation.evaluator import Evaluator, order_by_program
from r2t2_jax.evaluation.feature_cache import BankArrays
from r2t2_jax.evaluation.setup import ModelSource
from r2t2_jax.evaluation.statistics import DIGITS, TESTS, compare, wilson_interval
from r2t2_jax.evaluation.tuning_grid import NEIGHBORS, HalvingRound
from r2t2_jax.evaluation.worker import EMPTY_SLOT, Assignment, TuningWork
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import settings_read, strategy
from r2t2_jax.metrics import Metric
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.run import Run
from r2t2_jax.runs.workers import WorkerPool
from r2t2_jax.runtime.batching import threads_at_a_time

CONTROLS = ("base", "uniform")  # strategies without settings
SLACK = 0.01  # accuracy that a cheaper setting may lose against the best
RULE = f"the cheapest setting within {100 * SLACK:g} point of the best of those measured on all questions"
CAUTION = "the best of many settings is partly luck: expect a slightly lower accuracy on new questions"


def refuse_test(split: str | None, samples: Sequence[Sample]) -> None:
    """Check that the questions are not of a test set.

    Raises:
        R2T2Error: the name of the split, or of the split of any sample, begins with test.
    """
    splits = {split or "", *(sample.split for sample in samples)}
    tests = sorted(name for name in splits if name.lower().startswith("test"))
    if tests:
        raise R2T2Error(
            f"settings must not be chosen on test questions, and these are of split {tests[0]!r}: give validation "
            "questions, so that results on the test set stay valid"
        )


def prepare_tuning(
    port: Port,
    bank: ReferenceBank,
    questions: EncodedQuestions,
    presets: Sequence[Preset],
    metric: Metric,
    seed: int = 0,
    method: str = "ngd",
) -> PreparedBatch:
    """The questions prepared for `CONTROLS` and for every preset of a strategy, which is named by its index.

    Raises:
        R2T2Error: as `Evaluator.create`; or the strategy reads an atlas, and the bank has none.
    """
    counts = [preset.get(NEIGHBORS[method]) for preset in presets]
    largest = presets[int(np.argmax(counts))]
    evaluator = Evaluator.create(port, bank, {method: strategy(method, largest)}, metric, seed)
    batch = evaluator.prepare_batch(questions)
    batch.neighbors.references(method, np.zeros(1, int))  # raises if the bank lacks something
    nearest = batch.neighbors.neighborhoods[method]
    strategies = {str(i): strategy(method, preset) for i, preset in enumerate(presets)}
    # The first k neighbors of the largest neighborhood are the k nearest.
    neighborhoods = {str(i): jax.tree.map(lambda leaf, k=k: leaf[:, :k], nearest) for i, k in enumerate(counts)}
    neighbors = dataclasses.replace(
        batch.neighbors,
        strategies=strategies | {name: strategy(name) for name in CONTROLS},
        neighborhoods=neighborhoods | dict.fromkeys(CONTROLS),
    )
    return dataclasses.replace(batch, neighbors=neighbors)


def open_worker(
    source: ModelSource,
    bank: BankArrays,
    samples: Sequence[Sample],
    presets: Sequence[Preset],
    metric: Metric,
    seed: int,
    method: str,
    max_new_tokens: int,
) -> TuningWork:
    """The work of a Ray worker, which encodes the questions itself; raises as `ModelSource.open`."""
    (opened, *_), _ = source.open()
    port = dataclasses.replace(opened, max_new_tokens=max_new_tokens)
    questions = encode_questions(port, samples)
    batch = prepare_tuning(port, bank.open(port), questions, presets, metric, seed, method)
    return TuningWork({port.name: batch})


def tuning_plan(models: Sequence[str], rounds: Sequence[HalvingRound]) -> Plan:
    """The parts of a search: every slot of every round, then the controls, for each model."""
    parts = [
        Part(_part(number, slot, model), step.stop - step.start, BATCH)
        for number, step in enumerate(rounds)
        for slot in range(step.settings)
        for model in models
    ]
    return Plan(
        [*parts, *(Part(_part(name, 0, model), rounds[-1].stop, BATCH) for name in CONTROLS for model in models)]
    )


def _part(step: int | str, slot: int, model: str) -> str:
    return f"{step}/{slot}/{model}"


@dataclass(frozen=True)
class MeasuredSetting:
    """Results of a setting: correctness of the first questions of each model, concatenated over models."""

    number: int
    right: Bool[np.ndarray, "n"]
    evaluations: int

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


@dataclass(frozen=True)
class Tuning:
    """A search in progress.

    Args:
        run: the run that holds the measurements.
        batches: the prepared questions of each model; with a pool, which prepares them itself, only the names count.
        rounds: of successive halving.
        minutes: time after which no further setting is started, over all rounds; `None` for no limit.
        began: start of the search.
        pool: Ray workers that measure, with a `TuningWork`; `None` for this process.
    """

    run: Run
    batches: Mapping[str, PreparedBatch | None]
    rounds: Sequence[HalvingRound]
    minutes: float | None = None
    began: float = field(default_factory=time.monotonic)
    pool: WorkerPool | None = None

    def search(self) -> list[list[MeasuredSetting]]:
        """Compute the missing measurements and return the settings of each round, the best first.

        Raises:
            RunInterrupted: the run was stopped.
            R2T2Error: no setting was measured within the time limit.
        """
        rankings: list[list[MeasuredSetting]] = []
        for number, step in enumerate(self.rounds):
            self._measure(number, self._promoted(number, rankings[-1]) if number else list(range(step.settings)))
            rankings.append(self.ranking(number))
            if not rankings[-1]:
                raise R2T2Error(f"no setting was measured within {self.minutes:g} minutes; raise the limit")
        self._compute({}, [_part(name, 0, model) for name in CONTROLS for model in self.batches], 1, "controls")
        return rankings

    def _promoted(self, number: int, ranking: Sequence[MeasuredSetting]) -> list[int]:
        """The settings of a round: a fixed share of those that the round before measured, the best first."""
        share = self.rounds[number].settings / self.rounds[number - 1].settings
        return [setting.number for setting in ranking[: max(1, math.ceil(share * len(ranking)))]]

    def _measure(self, number: int, settings: list[int]) -> None:
        step = self.rounds[number]
        slots = {_part(number, slot, model): setting for slot, setting in enumerate(settings) for model in self.batches}
        order = self._order(settings)
        parts = [_part(number, settings.index(setting), model) for setting in order for model in self.batches]
        empty = [_part(number, slot, model) for slot in range(len(settings), step.settings) for model in self.batches]
        title = f"round {number + 1} of {len(self.rounds)}: {len(settings)} settings on {step.stop} questions"
        self._compute(slots, parts + empty, threads_at_a_time(), title)

    def _order(self, settings: Sequence[int]) -> list[int]:
        batch = next(iter(self.batches.values()))
        if batch is None:
            return list(settings)
        return [int(name) for name in order_by_program({str(i): batch.strategies[str(i)] for i in settings})]

    def _compute(self, slots: Mapping[str, int], parts: Sequence[str], threads: int, title: str) -> None:
        """Compute and save the missing batches of some parts, in this process or on workers."""
        assign = partial(self._assign, slots)
        if self.pool is None:
            work = TuningWork({name: batch for name, batch in self.batches.items() if batch is not None})
            self.run.compute(lambda batch: work.rows(assign(batch)), parts, threads, title)
            return

        def names(batch: Batch) -> str:
            assignment = assign(batch)
            return f"questions {assignment.start + 1} to {assignment.stop} with setting {assignment.strategy}"

        self.pool.compute(self.run, parts, assign, names, title)

    def _assign(self, slots: Mapping[str, int], batch: Batch) -> Assignment:
        """The measurement of a batch; none in empty slots and after the time limit."""
        head, _, model = batch.part.split("/", 2)
        if head in CONTROLS:
            return Assignment(model, head, EMPTY_SLOT, batch.start, batch.stop)
        setting, start = slots.get(batch.part, EMPTY_SLOT), self.rounds[int(head)].start
        if setting == EMPTY_SLOT or (head == "0" and self._overdue()):
            return Assignment(model, None, EMPTY_SLOT, 0, 0)
        return Assignment(model, str(setting), setting, start + batch.start, start + batch.stop)

    def _overdue(self) -> bool:
        return self.minutes is not None and time.monotonic() - self.began > 60 * self.minutes / len(self.rounds)

    def ranking(self, number: int) -> list[MeasuredSetting]:
        """The settings measured on all questions of the rounds up to this one, the best first; ties by cost."""
        expected = self.rounds[number].stop * len(self.batches)
        table = self.run.table()
        columns = {name: table[name].to_numpy() for name in ("setting", "question", "right", "evaluations")}
        models = np.array(table["model"].to_pylist())
        settings = []
        for setting in np.unique(columns["setting"]):
            rows = (columns["setting"] == setting) & (columns["question"] < self.rounds[number].stop)
            if setting == EMPTY_SLOT or rows.sum() != expected:
                continue
            right = _by_question(columns["right"][rows], columns["question"][rows], models[rows], list(self.batches))
            settings.append(MeasuredSetting(int(setting), right, int(columns["evaluations"][rows][0])))
        return sorted(settings, key=lambda setting: (-setting.accuracy, setting.evaluations, setting.number))

    def control(self, name: str) -> Bool[np.ndarray, "n"]:
        """Correctness of all questions with one of `CONTROLS`, concatenated over models."""
        tables = [self.run.rows_of(_part(name, 0, model)) for model in self.batches]
        return np.concatenate([table["right"].to_numpy() for table in tables])


def _by_question(
    right: Bool[np.ndarray, "n"], questions: Int[np.ndarray, "n"], models: np.ndarray, names: Sequence[str]
) -> Bool[np.ndarray, "n"]:
    return right[np.lexsort((questions, np.array([names.index(model) for model in models])))]


def cheapest_good_setting(settings: Sequence[MeasuredSetting]) -> MeasuredSetting:
    """The cheapest setting whose accuracy is within `SLACK` of the best; ties by accuracy."""
    best = max(setting.accuracy for setting in settings)
    good = [setting for setting in settings if setting.accuracy >= best - SLACK]
    return min(good, key=lambda setting: (setting.evaluations, -setting.accuracy, setting.number))


def tuned_preset(
    name: str,
    presets: Sequence[Preset],
    varied: Sequence[str],
    tuning: Tuning,
    rankings: Sequence[Sequence[MeasuredSetting]],
    method: str = "ngd",
) -> dict[str, Any]:
    """The chosen settings, their comparison with the controls, and a table of all settings, as JSON values.

    Args:
        name: of the preset.
        presets: all settings, by index.
        varied: paths of the settings that vary.
        tuning: the finished search.
        rankings: its result, by round.
        method: name of the tuned strategy.
    """
    last: dict[int, MeasuredSetting] = {setting.number: setting for ranking in rankings for setting in ranking}
    chosen = cheapest_good_setting(rankings[-1])
    controls = {key: tuning.control(key) for key in CONTROLS}
    gain = compare(controls["base"], chosen.right)
    models = list(tuning.batches)
    by_model = np.split(chosen.right, len(models))
    return {
        "name": name,
        "strategy": method,
        "settings": settings_read([method], presets[chosen.number]),
        "evidence": {
            **_measures(chosen.right),
            "by_model": {model: _measures(right) for model, right in zip(models, by_model, strict=True)},
            "evaluations_per_sample": chosen.evaluations,
            **{key: _measures(right) for key, right in controls.items()},
            "gain_over_base": {
                "points": round(100 * gain.gain, 2),
                "ci95": [round(100 * gain.low, 2), round(100 * gain.high, 2)],
                "test": TESTS["right"],
            },
            "rule": RULE,
            "caution": CAUTION,
            "tried": len(last),
            "table": [
                {
                    **{path: presets[setting.number].get(path) for path in varied},
                    **_measures(setting.right),
                    "evaluations_per_sample": setting.evaluations,
                }
                for setting in sorted(last.values(), key=lambda s: (-len(s.right), -s.accuracy, s.evaluations))
            ],
        },
    }


def _measures(right: Bool[np.ndarray, "n"]) -> dict[str, Any]:
    low, high = wilson_interval(int(right.sum()), len(right))
    return {
        "n": len(right),
        "accuracy": round(float(right.mean()), DIGITS),
        "ci95": [round(low, DIGITS), round(high, DIGITS)],
    }
