"""Comparison of runs: accuracy of each strategy, its paired gain over the unmodified model, and gains between runs.

Axis letters: B test samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.benchmark import model_of
from r2t2_jax.evaluation.statistics import Comparison, compare, models_of
from r2t2_jax.methods import BASE
from r2t2_jax.runs.reading import refuse_damaged

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

    from r2t2_jax.runs.reading import SavedRun


@dataclass(frozen=True)
class PairedGain:
    """Two strategies on the same n questions: gain with its interval (`compare`), and answers that changed."""

    n: int
    gain: Comparison
    wrong_to_right: int
    right_to_wrong: int


@dataclass(frozen=True)
class ResultEntry:
    """One strategy of one run on one benchmark. `score` is the benchmark's official number."""

    run: str
    model: str
    benchmark: str
    strategy: str
    accuracy: float
    ci95: tuple[float, float]
    score_name: str
    score: float
    evaluations: float
    over_base: PairedGain
    right: Mapping[str, bool]  # by question id


def read_entries(runs: Sequence[SavedRun]) -> list[ResultEntry]:
    """Every strategy of every run, in the order of the runs.

    Raises:
        R2T2Error: a run is not complete, or the runs have no strategies.
    """
    entries = [entry for saved, name in zip(runs, _names(runs), strict=True) for entry in _entries(saved, name)]
    if not entries:
        raise R2T2Error("the runs have no strategies to compare; give runs of r2t2 eval or r2t2 demo")
    return entries


def _names(runs: Sequence[SavedRun]) -> list[str]:
    """The names of the folders, or their paths if two have the same name."""
    short = [saved.folder.resolve().name for saved in runs]
    return short if len(set(short)) == len(short) else [str(saved.folder) for saved in runs]


def _entries(saved: SavedRun, run: str) -> list[ResultEntry]:
    with refuse_damaged(saved.folder):
        return _entries_of_rows(saved, run)


def _entries_of_rows(saved: SavedRun, run: str) -> list[ResultEntry]:
    models = models_of(saved.summary, saved.folder)
    tables = _by_title(saved.rows) if models else {}
    if set(tables) != set(models):
        different = ", ".join(sorted(set(tables) ^ set(models)))
        raise R2T2Error(f"{saved.folder} is damaged: its summary and its rows name other models ({different})")
    entries = []
    for title, rows in tables.items():
        summary = models[title]
        model, benchmark = title, str(saved.run["command"])
        if "benchmark" in summary:
            model, benchmark = model_of(title, summary["benchmark"]), Path(summary["benchmark"]).name
        right = {name: dict(_right(rows, name)) for name in summary["strategies"]}
        if without := [name for name in (BASE, *right) if not right.get(name)]:
            raise R2T2Error(f"{saved.folder} is damaged: it has no rows of strategy {without[0]} for {title}")
        for name, entry in summary["strategies"].items():
            own = entry.get("score") or {"accuracy": 100 * entry["accuracy"]}
            score_name, score = next(iter(own.items()))
            entries.append(
                ResultEntry(
                    run=run,
                    model=model,
                    benchmark=benchmark,
                    strategy=name,
                    accuracy=entry["accuracy"],
                    ci95=tuple(entry["ci95"]),
                    score_name=score_name,
                    score=score,
                    evaluations=entry["evaluations_per_sample"],
                    over_base=paired(right[BASE], right[name]) if name != BASE else no_change(len(right[BASE])),
                    right=right[name],
                )
            )
    return entries


def _by_title(rows: pa.Table) -> dict[str, pa.Table]:
    import pyarrow.compute as pc

    answers = rows.select(["model", "strategy", "id", "right"])
    return {title: answers.filter(pc.field("model") == title) for title in answers["model"].unique().to_pylist()}


def _right(rows: pa.Table, strategy: str) -> list[tuple[str, bool]]:
    import pyarrow.compute as pc

    answers = rows.filter(pc.field("strategy") == strategy)
    return list(zip(answers["id"].to_pylist(), answers["right"].to_pylist(), strict=True))


def paired(before: Mapping[str, bool], after: Mapping[str, bool]) -> PairedGain:
    """The gain from one to the other on the questions that both answered; arguments map question ids to truth values.

    Raises:
        R2T2Error: no question is in both.
    """
    shared = [name for name in before if name in after]
    if not shared:
        raise R2T2Error("two runs to be compared have no question in common")
    first: Bool[np.ndarray, "B"] = np.array([before[name] for name in shared])
    second: Bool[np.ndarray, "B"] = np.array([after[name] for name in shared])
    gain = compare(first, second)
    return PairedGain(len(shared), gain, int((~first & second).sum()), int((first & ~second).sum()))


def no_change(n: int) -> PairedGain:
    """The gain of a strategy over itself on n questions."""
    return PairedGain(n, Comparison(0.0, 0.0, 0.0), 0, 0)


def between_runs(entries: Sequence[ResultEntry]) -> list[tuple[ResultEntry, ResultEntry, PairedGain]]:
    """Each strategy of a later run compared with the same strategy of the first run that shares questions with it."""
    pairs = []
    for position, entry in enumerate(entries):
        for earlier in entries[:position]:
            is_same = (earlier.benchmark, earlier.strategy) == (entry.benchmark, entry.strategy)
            if is_same and earlier.run != entry.run and earlier.right.keys() & entry.right.keys():
                pairs.append((earlier, entry, paired(earlier.right, entry.right)))
                break
    return pairs


def overview(entries: Sequence[ResultEntry]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: one row per model and strategy, one column per benchmark with its official score."""
    columns = dict.fromkeys((entry.benchmark, entry.score_name) for entry in entries)
    several_runs = len({entry.run for entry in entries}) > 1
    rows: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
    for entry in entries:
        row = (*((entry.run,) if several_runs else ()), entry.model, entry.strategy)
        rows.setdefault(row, {})[entry.benchmark, entry.score_name] = f"{entry.score:.1f}"
    head = [*(("run",) if several_runs else ()), "model", "strategy", *(f"{name} {unit}" for name, unit in columns)]
    return head, [[*row, *(cells.get(column, "") for column in columns)] for row, cells in rows.items()]


DETAILS = (
    *("run", "model", "benchmark", "strategy", "n", "accuracy %", "95 % interval", "gain", "95 % interval of the gain"),
    *("wrong to right", "right to wrong", "evaluations"),
)


def details(entries: Sequence[ResultEntry]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: accuracy, paired gain over `base` in points, both with intervals, answers that changed, cost."""
    rows = [
        [
            *(entry.run, entry.model, entry.benchmark, entry.strategy, str(entry.over_base.n)),
            f"{100 * entry.accuracy:.1f}",
            f"{100 * entry.ci95[0]:.1f} to {100 * entry.ci95[1]:.1f}",
            *_gain(entry.over_base),
            f"{entry.evaluations:g}",
        ]
        for entry in entries
    ]
    return list(DETAILS), rows


def changes(entries: Sequence[ResultEntry]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of `between_runs`."""
    head = ["benchmark", "strategy", "from", "to", "n", "gain", "95 % interval of the gain"]
    rows = [
        [after.benchmark, after.strategy, before.run, after.run, str(change.n), *_gain(change)]
        for before, after, change in between_runs(entries)
    ]
    return [*head, "wrong to right", "right to wrong"], rows


def _gain(change: PairedGain, short: bool = False) -> list[str]:
    gain = change.gain
    interval = f"{100 * gain.low:+.1f}{'/' if short else ' to '}{100 * gain.high:+.1f}"
    return [f"{100 * gain.gain:+.1f}", interval, str(change.wrong_to_right), str(change.right_to_wrong)]


def as_tables(entries: Sequence[ResultEntry]) -> list[Table]:
    """Tables for a terminal of 80 columns: one for each run, model and benchmark, and one of changes between runs."""
    several_runs = len({entry.run for entry in entries}) > 1
    groups: dict[tuple[str, str, str], list[ResultEntry]] = {}
    for entry in entries:
        groups.setdefault((entry.run, entry.model, entry.benchmark), []).append(entry)
    tables = []
    for (run, model, benchmark), group in groups.items():
        unit = group[0].score_name
        official = (f"{unit.replace(' ', chr(10))}",) if unit != "accuracy" else ()
        title = f"{f'{run}: ' if several_runs else ''}{model} on {benchmark}: {group[0].over_base.n:,} questions"
        heads = ("acc.\n%", "95 %\ninterval", "gain\npoints", "95 %\ninterval", "wrong→\nright", "right→\nwrong")
        table = _table(title, ("strategy",), (*official, *heads, "evals\n/sample"))
        for entry in group:
            low, high = (f"{100 * bound:.1f}" for bound in entry.ci95)
            shown = [entry.strategy, *(f"{entry.score:.1f}" for _ in official), f"{100 * entry.accuracy:.1f}"]
            table.add_row(*shown, f"{low}-{high}", *_gain(entry.over_base, short=True), f"{entry.evaluations:g}")
        tables.append(table)
    if between_runs(entries):
        texts, numbers = ("benchmark", "strategy", "from", "to"), ("n", "gain", "95 %\ninterval")
        table = _table("Between runs", texts, (*numbers, "wrong→\nright", "right→\nwrong"))
        for before, after, change in between_runs(entries):
            names = (after.benchmark, after.strategy, before.run, after.run)
            table.add_row(*names, f"{change.n:,}", *_gain(change, short=True))
        tables.append(table)
    return tables


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table with columns of texts and columns of numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=0)
    for head in texts:
        table.add_column(head, overflow="fold")
    for head in numbers:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def as_records(entries: Sequence[ResultEntry]) -> list[dict[str, Any]]:
    """One flat record per entry with unrounded numbers, for CSV."""
    return [
        {
            "run": entry.run,
            "model": entry.model,
            "benchmark": entry.benchmark,
            "strategy": entry.strategy,
            "n": entry.over_base.n,
            "accuracy": entry.accuracy,
            "accuracy_low": entry.ci95[0],
            "accuracy_high": entry.ci95[1],
            "score_name": entry.score_name,
            "score": entry.score,
            "gain": entry.over_base.gain.gain,
            "gain_low": entry.over_base.gain.low,
            "gain_high": entry.over_base.gain.high,
            "wrong_to_right": entry.over_base.wrong_to_right,
            "right_to_wrong": entry.over_base.right_to_wrong,
            "evaluations_per_sample": entry.evaluations,
        }
        for entry in entries
    ]
