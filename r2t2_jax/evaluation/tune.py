"""Search settings of a strategy on validation questions, as a run that survives.

Questions are encoded once, neighbours are found once for the largest k, and settings that differ in numbers alone (a
learning rate, a kernel) share a compiled program.

A part of the run is one place on one rung (`settings_grid.py`) for one model. Which setting stands in a place follows
from the rows of the rungs before, so that an interrupted search goes on where it stopped.
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
from r2t2_jax.evaluation.batch import PreparedBatch, evaluate_batch
from r2t2_jax.evaluation.encode import BATCH, EncodedQuestions
from r2t2_jax.evaluation.evaluator import Evaluator, order_by_program
from r2t2_jax.evaluation.statistics import DIGITS, TESTS, compare, wilson_interval
from r2t2_jax.evaluation.tuning_grid import NEIGHBORS, HalvingRound
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import settings_read, strategy
from r2t2_jax.metrics import Metric
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.batching import threads_at_a_time

BESIDE = ("base", "uniform")  # what needs no setting
SLACK = 0.01  # of accuracy, which a cheaper setting may lose against the best
NOBODY = -1  # in a place that is left empty


def refuse_test(split: str | None, samples: Sequence[Sample]) -> None:
    """Refuse to choose settings on a test set.

    Raises:
        R2T2Error: the split, or that of any sample, is called test or something like test2015.
    """
    named = {split or "", *(sample.split for sample in samples)}
    tests = sorted(name for name in named if name.lower().startswith("test"))
    if tests:
        raise R2T2Error(
            f"settings must not be chosen on test questions, and these are of split {tests[0]!r}: give validation "
            "questions, or what is reported on the test set means nothing"
        )


def tuning_bench(
    port: Port,
    bank: ReferenceBank,
    questions: EncodedQuestions,
    presets: Sequence[Preset],
    metric: Metric,
    seed: int = 0,
    method: str = "ngd",
) -> PreparedBatch:
    """A model ready to try every preset of a strategy, under the name of its number, and `BESIDE`.

    Raises:
        R2T2Error: as `Evaluator.create`; or the strategy reads an atlas, and the bank has none.
    """
    counts = [preset.get(NEIGHBORS[method]) for preset in presets]
    largest = presets[int(np.argmax(counts))]
    evaluator = Evaluator.create(port, bank, {method: strategy(method, largest)}, metric, seed)
    batch = evaluator.prepare_batch(questions)
    batch.neighbors.references(method, np.zeros(1, int))  # raises if the bank lacks something
    nearest = batch.neighbors.neighborhoods[method]
    tried = {str(i): strategy(method, preset) for i, preset in enumerate(presets)}
    # The k nearest of the largest neighbourhood are its first k.
    nearby = {str(i): jax.tree.map(lambda leaf, k=k: leaf[:, :k], nearest) for i, k in enumerate(counts)}
    neighbors = dataclasses.replace(
        batch.neighbors,
        strategies=tried | {name: strategy(name) for name in BESIDE},
        neighborhoods=nearby | dict.fromkeys(BESIDE),
    )
    return dataclasses.replace(batch, neighbors=neighbors)


def tuning_plan(models: Sequence[str], plan: Sequence[HalvingRound]) -> Plan:
    """The parts of a search: every place of every rung, then what stands beside, for each model."""
    parts = [
        Part(_part(number, place, model), rung.stop - rung.start, BATCH)
        for number, rung in enumerate(plan)
        for place in range(rung.settings)
        for model in models
    ]
    return Plan([*parts, *(Part(_part(name, 0, model), plan[-1].stop, BATCH) for name in BESIDE for model in models)])


def _part(rung: int | str, place: int, model: str) -> str:
    return f"{rung}/{place}/{model}"


@dataclass(frozen=True)
class Measured:
    """What one setting did on the first questions of every model, the models one after another."""

    number: int
    right: Bool[np.ndarray, "n"]
    evaluations: int

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


@dataclass(frozen=True)
class Tuning:
    """A search under way."""

    run: Run
    benches: Mapping[str, PreparedBatch]
    rungs: Sequence[HalvingRound]
    minutes: float | None = None
    began: float = field(default_factory=time.monotonic)

    def search(self) -> list[list[Measured]]:
        """Compute what is missing; for each rung its settings, the best first.

        Raises:
            Stopped: the run is to end.
            R2T2Error: no setting was measured within the minutes.
        """
        found: list[list[Measured]] = []
        for number, rung in enumerate(self.rungs):
            self._measure(number, self._promoted(number, found[-1]) if number else list(range(rung.settings)))
            found.append(self.ranking(number))
            if not found[-1]:
                raise R2T2Error(f"no setting was measured within {self.minutes:g} minutes; allow more")
        self.run.compute(partial(self._rows, {}), [_part(name, 0, model) for name in BESIDE for model in self.benches])
        return found

    def _promoted(self, number: int, ranked: Sequence[Measured]) -> list[int]:
        """Who goes on to a rung; where time cut the one before short, that one's share of what it measured."""
        share = self.rungs[number].settings / self.rungs[number - 1].settings
        return [one.number for one in ranked[: max(1, math.ceil(share * len(ranked)))]]

    def _measure(self, number: int, settings: list[int]) -> None:
        rung = self.rungs[number]
        places = {
            _part(number, place, model): setting for place, setting in enumerate(settings) for model in self.benches
        }
        order = self._order(settings)
        parts = [_part(number, settings.index(setting), model) for setting in order for model in self.benches]
        empty = [_part(number, place, model) for place in range(len(settings), rung.settings) for model in self.benches]
        title = f"rung {number + 1} of {len(self.rungs)}: {len(settings)} settings on {rung.stop} questions"
        self.run.compute(partial(self._rows, places), parts + empty, threads_at_a_time(), title)

    def _order(self, settings: Sequence[int]) -> list[int]:
        some = next(iter(self.benches.values()))
        return [int(name) for name in order_by_program({str(i): some.strategies[str(i)] for i in settings})]

    def _rows(self, places: Mapping[str, int], batch: Batch) -> list[dict[str, Any]]:
        """A row for each question; one that says nobody where the place is empty or time is over."""
        head, _, model = batch.part.split("/", 2)
        if head in BESIDE:
            setting, name, start = NOBODY, head, 0
        else:
            setting, start = places.get(batch.part, NOBODY), self.rungs[int(head)].start
            name = str(setting)
            if setting == NOBODY or (head == "0" and self._overdue()):
                return [{"setting": NOBODY, "model": model, "question": NOBODY, "right": False, "evaluations": 0}]
        bench, first, last = self.benches[model], start + batch.start, start + batch.stop
        (result,) = evaluate_batch(bench, [name], start=first, stop=last, chunk_size=BATCH)
        return [
            {
                "setting": setting,
                "model": model,
                "question": first + i,
                "right": right,
                "evaluations": result.evaluations,
            }
            for i, right in enumerate(result.right.tolist())
        ]

    def _overdue(self) -> bool:
        return self.minutes is not None and time.monotonic() - self.began > 60 * self.minutes / len(self.rungs)

    def ranking(self, number: int) -> list[Measured]:
        """The settings measured on all questions up to a rung's last, the best first; of equals the cheapest."""
        wanted = self.rungs[number].stop * len(self.benches)
        table = self.run.table()
        columns = {name: table[name].to_numpy() for name in ("setting", "question", "right", "evaluations")}
        models = np.array(table["model"].to_pylist())
        found = []
        for setting in np.unique(columns["setting"]):
            rows = (columns["setting"] == setting) & (columns["question"] < self.rungs[number].stop)
            if setting == NOBODY or rows.sum() != wanted:
                continue
            right = _by_question(columns["right"][rows], columns["question"][rows], models[rows], list(self.benches))
            found.append(Measured(int(setting), right, int(columns["evaluations"][rows][0])))
        return sorted(found, key=lambda one: (-one.accuracy, one.evaluations, one.number))

    def beside(self, name: str) -> Bool[np.ndarray, "n"]:
        """Which of all questions one of `BESIDE` answers correctly, the models one after another."""
        tables = [self.run.rows_of(_part(name, 0, model)) for model in self.benches]
        return np.concatenate([table["right"].to_numpy() for table in tables])


def _by_question(
    right: Bool[np.ndarray, "n"], questions: Int[np.ndarray, "n"], models: np.ndarray, names: Sequence[str]
) -> Bool[np.ndarray, "n"]:
    return right[np.lexsort((questions, np.array([names.index(model) for model in models])))]


def cheapest_good(measured: Sequence[Measured]) -> Measured:
    """The cheapest within `SLACK` of the best; the better of two that cost the same."""
    best = max(one.accuracy for one in measured)
    good = [one for one in measured if one.accuracy >= best - SLACK]
    return min(good, key=lambda one: (one.evaluations, -one.accuracy, one.number))


RULE = f"the cheapest setting within {100 * SLACK:g} point of the best of those measured on all questions"
CAUTION = "the best of many settings is partly luck: expect a little less on new questions"


def tuned_preset(
    name: str,
    presets: Sequence[Preset],
    varied: Sequence[str],
    tuning: Tuning,
    found: Sequence[Sequence[Measured]],
    method: str = "ngd",
) -> dict[str, Any]:
    """The chosen settings, how they compare, and the table of all that were tried, ready for JSON.

    Args:
        name: of the preset.
        presets: all settings, by number.
        varied: the fields in which they differ.
        tuning: the finished search.
        found: what it found, rung by rung.
        method: the strategy that was tuned.
    """
    last: dict[int, Measured] = {one.number: one for rung in found for one in rung}
    chosen = cheapest_good(found[-1])
    beside = {key: tuning.beside(key) for key in BESIDE}
    gain = compare(beside["base"], chosen.right)
    models = list(tuning.benches)
    by_model = np.split(chosen.right, len(models))
    return {
        "name": name,
        "strategy": method,
        "settings": settings_read([method], presets[chosen.number]),
        "evidence": {
            **_measures(chosen.right),
            "by_model": {model: _measures(right) for model, right in zip(models, by_model, strict=True)},
            "evaluations_per_sample": chosen.evaluations,
            **{key: _measures(right) for key, right in beside.items()},
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
                    **_varied(presets[one.number], varied),
                    **_measures(one.right),
                    "evaluations_per_sample": one.evaluations,
                }
                for one in sorted(last.values(), key=lambda one: (-len(one.right), -one.accuracy, one.evaluations))
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


def _varied(preset: Preset, varied: Sequence[str]) -> Mapping[str, Any]:
    return {path: preset.get(path) for path in varied}
