"""Statistics of a run's rows: accuracies with intervals, flips, the share of the gap recovered; and `summary.json`.

Most functions take `right[strategy]`: one truth value per test sample, in the same order for every strategy.

Axis letters: B test samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.methods import untouched
from r2t2_jax.metrics import SetScore
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.typed_json import Json

NORMAL_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
DIGITS = 6
SUMMARY_SCHEMA = 2  # of `summary.json` as `r2t2 demo`, `eval` and `reproduce` write it


def summary_content(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The content of `summary.json`: the numbers of every model, by the title of its rows."""
    return {"schema": SUMMARY_SCHEMA, "models": models}


def models_of(summary: Mapping[str, Any], where: object) -> Mapping[str, Mapping[str, Any]]:
    """The numbers of every model, by title, from the content of a `summary.json`.

    Summaries without a schema number are read as well. They name some numbers differently, and those of `r2t2 demo`
    have the gates of the pocket model in place of models.

    Args:
        summary: the content.
        where: the file or folder it comes from, for errors.

    Raises:
        R2T2Error: a newer version of r2t2 wrote it, or it has no numbers of models.
    """
    schema = summary.get("schema", 1)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise R2T2Error(f"the summary of {where} is damaged: its schema is no number from 1 on; run it again")
    if schema > SUMMARY_SCHEMA:
        raise R2T2Error(f"{where} has a summary of schema {schema}; this version reads up to {SUMMARY_SCHEMA}: update")
    models = summary.get("models")
    if schema == 1 and "gates" in summary:
        models = {f"pocket:{gate}": numbers for gate, numbers in summary["gates"].items()}
    if models is None:
        raise R2T2Error(f"{where} has a summary without accuracies of models: give a run of demo, eval or reproduce")
    document = Json(f"the summary of {where}", "", models, "run it again in another folder", lines=False)
    renamed = {title: _renamed(numbers) for title, numbers in document.as_type(dict[str, dict[str, Any]]).items()}
    numbers = renamed if schema == 1 else models
    for title, content in numbers.items():
        others = set(content) - {entry.name for entry in fields(_ModelNumbers)}
        part = Json(f"the summary of {where}, {title}", "", content, document.remedy, lines=False)
        _check_numbers(part, part.as_type(_ModelNumbers, leave_out=others, lenient=True))
    return numbers


@dataclass(frozen=True)
class _StrategyNumbers:
    """The numbers of a strategy on which tables and figures rely."""

    accuracy: float
    ci95: tuple[float, float]
    wrong_to_right: int
    right_to_wrong: int
    evaluations_per_sample: float
    gap_recovered: float | None = None


@dataclass(frozen=True)
class _FamilyNumbers:
    n: int
    accuracy: dict[str, float]


@dataclass(frozen=True)
class _ModelNumbers:
    n: int
    strategies: dict[str, _StrategyNumbers]
    families: dict[str, _FamilyNumbers] = field(default_factory=dict)


def _check_numbers(part: Json, numbers: _ModelNumbers) -> None:
    """Refuse accuracies that are no shares, a negative n, and counts of answers beyond it."""
    if numbers.n < 0:
        raise part.error(f"'n' is {numbers.n}; it must not be negative")
    for name, row in numbers.strategies.items():
        shares = {"accuracy": row.accuracy, "ci95[0]": row.ci95[0], "ci95[1]": row.ci95[1]}
        counts = {"wrong_to_right": row.wrong_to_right, "right_to_wrong": row.right_to_wrong}
        for field_name, share in shares.items():
            if not 0 <= share <= 1:
                raise part.error(f"'strategies.{name}.{field_name}' is {share:g}; it must be from 0 to 1")
        for field_name, count in counts.items():
            if not 0 <= count <= numbers.n:
                raise part.error(f"'strategies.{name}.{field_name}' is {count}; it must be from 0 to n")


SCHEMA_1_NAMES = {"evaluations_per_case": "evaluations_per_sample", "asked": "candidates", "kept": "correct"}


def _renamed(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of schema 1 under their names of today."""
    return {
        SCHEMA_1_NAMES.get(name, name): _renamed(value) if isinstance(value, Mapping) and name != "families" else value
        for name, value in numbers.items()
    }


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927). It stays within [0, 1], also for 0 and n successes."""
    share, z = successes / n, NORMAL_95
    center = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def gap_recovered(accuracy: float, base: float, ceiling: float | None) -> float | None:
    """Share of the gap from `base` to `ceiling`; `None` if there is no gap."""
    if ceiling is None or ceiling <= base:
        return None
    return (accuracy - base) / (ceiling - base)


def summarize(
    right: Mapping[str, Bool[np.ndarray, "B"]],
    evaluations: Mapping[str, float],
    categories: Sequence[str],
    columns: Mapping[str, Float[np.ndarray, "B"] | Bool[np.ndarray, "B"]] | None = None,
) -> dict[str, Any]:
    """Numbers of one model on one test set, ready for `summary.json`.

    Args:
        right: for each strategy, which samples it answered correctly; `base` must be among them. The gap is the one up
            to `task_routing`, if that was run. Changes of `oracle_permuted` are those from `base_permuted`.
        evaluations: for each strategy, forward passes per sample that depend on r (a value with its gradient counts 2).
        categories: the family of each sample.
        columns: further numbers per sample; the entry of a family has their mean under the same name.

    Returns:
        `n`, `strategies` and `families`: for each family its `n`, each strategy's accuracy and the columns' means.
    """
    ceiling = float(right["task_routing"].mean()) if "task_routing" in right else None
    strategies = {}
    for name, correct in right.items():
        base = right[untouched(name, right)]
        share = gap_recovered(float(correct.mean()), float(base.mean()), ceiling)
        strategies[name] = {
            "accuracy": round(float(correct.mean()), DIGITS),
            "ci95": [round(bound, DIGITS) for bound in wilson_interval(int(correct.sum()), len(correct))],
            "gap_recovered": None if share is None else round(share, DIGITS),
            "wrong_to_right": int((~base & correct).sum()),
            "right_to_wrong": int((base & ~correct).sum()),
            "evaluations_per_sample": evaluations[name],
        }
    return {"n": len(right["base"]), "strategies": strategies, "families": by_family(right, categories, columns or {})}


def by_family(
    right: Mapping[str, Bool[np.ndarray, "B"]],
    categories: Sequence[str],
    columns: Mapping[str, Float[np.ndarray, "B"] | Bool[np.ndarray, "B"]],
) -> dict[str, Any]:
    """For each family, in alphabetical order, its `n`, each strategy's accuracy and the mean of each column."""
    families = {}
    for family in sorted(set(categories)):
        member = np.array([category == family for category in categories])
        accuracy = {name: round(float(correct[member].mean()), DIGITS) for name, correct in right.items()}
        means = {name: round(float(values[member].mean()), DIGITS) for name, values in columns.items()}
        families[family] = {"n": int(member.sum()), "accuracy": accuracy, **means}
    return families


SUMMARY_COLUMNS = ("strategy", "right", "score", "evaluations")  # of the rows, from which a summary is computed


def benchmark_rows(run: Run, benchmark: str) -> pa.Table:
    """The `SUMMARY_COLUMNS` of a benchmark's rows, read batch by batch: paths are much larger than everything else."""
    return pa.concat_tables(
        table.select(list(SUMMARY_COLUMNS)) for batch, table in run.tables() if batch.part == benchmark
    )


def summarize_benchmark(table: pa.Table, samples: Sequence[Sample], set_score: SetScore) -> dict[str, Any]:
    """Numbers of one model on one benchmark.

    Args:
        table: rows of all batches with the `SUMMARY_COLUMNS`; for each strategy in the order of the samples.
        samples: in the order of the plan.
        set_score: computes the benchmark's official numbers from the samples' scores.

    Returns:
        As `summarize`, and each strategy's `score`: the benchmark's official numbers, in percent or its own unit.
    """
    names = np.array(table["strategy"].to_pylist())
    right: dict[str, Bool[np.ndarray, "B"]] = {}
    evaluations, scores = {}, {}
    for name in dict.fromkeys(names.tolist()):
        mine = names == name
        right[name] = table["right"].to_numpy(zero_copy_only=False)[mine]
        counts = table["evaluations"].to_numpy()[mine]  # equal, unless balls of batches differ in size
        evaluations[name] = counts[0].item() if (counts == counts[0]).all() else round(float(counts.mean()), 1)
        official = set_score(table["score"].to_numpy()[mine].tolist(), samples)
        scores[name] = {key: round(number, DIGITS) for key, number in official.items()}
    summary = summarize(right, evaluations, [sample.category for sample in samples])
    for name, entry in summary["strategies"].items():
        entry["score"] = scores[name]
    return summary


Reply = Literal["yes", "no", "unclear"]
RESAMPLES = 2000
ACCURACY_INTERVAL = "Wilson's interval of a proportion"
GAIN_INTERVAL = "paired, Bonett & Price 2012"  # of gains in accuracy, in every table and report
TESTS = {
    "right": "paired proportions, adjusted Wald interval (Bonett & Price 2012)",
    "loss": f"mean paired difference, percentile bootstrap of {RESAMPLES:,} resamples",
}


@dataclass(frozen=True)
class Comparison:
    """A mean gain and its 95 % interval."""

    gain: float
    low: float
    high: float

    def worth(self, worthwhile: float) -> Reply:
        """Whether the gain is at least worthwhile.

        `yes`: the interval lies above zero and reaches `worthwhile`. `no`: it lies below `worthwhile`, so any gain is
        too small. `unclear`: it contains both zero and worthwhile gains; more samples would decide.
        """
        if self.high < worthwhile:
            return "no"
        return "yes" if self.low > 0 else "unclear"

    def times(self, factor: float) -> Comparison:
        """The gain and its interval in another unit, such as points (100) for shares."""
        return Comparison(factor * self.gain, factor * self.low, factor * self.high)

    def samples_needed(self, n: int, worthwhile: float) -> int:
        """Number of samples for an interval as narrow as `worthwhile`, rounded up to two digits."""
        needed = n * ((self.high - self.low) / worthwhile) ** 2
        digits = 10 ** max(0, int(math.log10(max(needed, 1))) - 1)
        return max(n, digits * math.ceil(needed / digits))


def compare(
    before: Bool[np.ndarray, "B"] | Float[np.ndarray, "B"], after: Bool[np.ndarray, "B"] | Float[np.ndarray, "B"]
) -> Comparison:
    """The paired gain from `before` to `after`, in accuracy or in the mean of any value that should be large.

    For boolean arrays the interval is that of Bonett & Price (2012, Psychological Methods 17), which adds one sample
    that turned right and one that turned wrong. It keeps its level for few samples and few changes, where the plain
    interval vanishes. For other values it is a percentile bootstrap over samples.
    """
    if before.dtype != bool:
        return mean_interval(after - before)
    n, better, worse = len(before), int((~before & after).sum()), int((before & ~after).sum())
    up, down = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    spread = NORMAL_95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Comparison((better - worse) / n, up - down - spread, up - down + spread)


def mean_interval(values: Float[np.ndarray, "B"], seed: int = 0) -> Comparison:
    """A mean with its percentile bootstrap interval."""
    rng, n = np.random.default_rng(seed), len(values)
    chunk = 100  # resamples at a time, to bound memory
    means = [values[rng.integers(n, size=(chunk, n))].mean(axis=1) for _ in range(RESAMPLES // chunk)]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Comparison(float(values.mean()), float(low), float(high))
