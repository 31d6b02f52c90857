"""The results of a saved run as arrays, by model and strategy.

Axis letters: B test samples, K neighbors, S steps, L routed layers, E experts, P = S + 1 points of a path, Q losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.benchmark import ANSWER, ENCODE, part_name
from r2t2_jax.evaluation.statistics import models_of
from r2t2_jax.methods import BASE
from r2t2_jax.reporting.roles import ROLES, role
from r2t2_jax.runs.batch_files import stack
from r2t2_jax.runs.reading import refuse_damaged

if TYPE_CHECKING:
    import pyarrow as pa

    from r2t2_jax.runs.reading import SavedRun

COLUMNS = (  # that a report cannot do without
    *("model", "strategy", "id", "category", "question", "answers", "prediction", "right", "router_weights", "weights"),
    *("path", "losses", "neighbors", "similarities", "kernel_weights", "used_fallback", "evaluations"),
)


@dataclass(frozen=True)
class StrategyRows:
    """The results of one strategy, in the order of the test set.

    `path`, `losses` and `step_right` have no columns if the strategy takes no steps. `step_right[:, s]` says whether
    the answer after s steps is right, `own_losses[:, s]` is the sample's own loss there, `losses` the neighbors'.
    """

    name: str
    predictions: list[str]
    right: Bool[np.ndarray, "B"]
    weights: Float[np.ndarray, "B L E"]
    path: Float[np.ndarray, "B P L E"]
    losses: Float[np.ndarray, "B Q"]
    step_predictions: list[list[str]]
    step_right: Bool[np.ndarray, "B P"]
    own_losses: Float[np.ndarray, "B P"]
    neighbors: list[list[str]]
    similarities: Float[np.ndarray, "B K"]
    kernel_weights: Float[np.ndarray, "B K"]
    used_fallback: Bool[np.ndarray, "B"]
    evaluations: float


@dataclass(frozen=True)
class ModelResults:
    """One model of a run.

    Args:
        name: name of the model.
        experts, layers: names of the routing weights' axes.
        ids, categories, questions, answers: of the B samples.
        router_weights: the router's own weights [B, L, E].
        strategies: results by strategy.
        summary: the model's part of `summary.json`.
        run: the model's part of `run.json`.
        seconds: measured seconds per sample of the strategies that were timed.
        references: question, answer and family of each reference, by its id.
        chosen: the strategy that figures and cases explain; `None` for the best one without labels.
    """

    name: str
    experts: tuple[str, ...]
    layers: tuple[str, ...]
    ids: list[str]
    categories: list[str]
    questions: list[str]
    answers: list[list[str]]
    router_weights: Float[np.ndarray, "B L E"]
    strategies: dict[str, StrategyRows]
    summary: Mapping[str, Any]
    run: Mapping[str, Any]
    seconds: Mapping[str, float]
    references: Mapping[str, Mapping[str, Any]]
    chosen: str | None = None

    @property
    def base(self) -> StrategyRows:
        """The unmodified model."""
        return self.strategies[BASE]

    @cached_property
    def explained(self) -> StrategyRows | None:
        """The strategy that figures and cases explain: `chosen`, else the most accurate of the re-routing methods.

        A run without such a method has its most accurate control instead, or else its first reference point.
        """
        names = [self.chosen] if self.chosen else [name for key in ROLES for name in self.ranking if role(name) == key]
        return self.strategies[names[0]] if names else None

    @cached_property
    def ranking(self) -> list[str]:
        """All strategies but `base`, the most accurate first, the cheaper one of equal ones."""

        def order(name: str) -> tuple[float, float]:
            return -float(self.strategies[name].right.mean()), self.strategies[name].evaluations

        return sorted((name for name in self.strategies if name != BASE), key=order)

    @property
    def groups(self) -> dict[str, list[str]]:
        """`base`, then the other strategies by role, the most accurate of a role first; empty groups are left out."""
        groups = {"": [BASE]} | {key: [name for name in self.ranking if role(name) == key] for key in ROLES}
        return {key: names for key, names in groups.items() if names}

    def explaining(self, strategy: str) -> ModelResults:
        """The same results, with another strategy as the explained one."""
        return replace(self, chosen=strategy)


def read_results(saved: SavedRun) -> list[ModelResults]:
    """The models of a run, in the order of its rows.

    Raises:
        R2T2Error: the run is not complete, has no rows, lacks `base`, or an earlier version wrote its rows.
    """
    with refuse_damaged(saved.folder):
        return _models(saved)


def _models(saved: SavedRun) -> list[ModelResults]:
    rows = saved.rows
    if "strategy" not in rows.column_names and rows.num_rows:
        raise R2T2Error(f"{saved.folder} holds a run of r2t2 {saved.run['command']}, which has no answers to report")
    missing = [column for column in COLUMNS if column not in rows.column_names]
    if missing:
        raise R2T2Error(
            f"the rows of {saved.folder} have no column {missing[0]}: another version of r2t2 wrote them; run it again"
        )
    by_model = _by_value(rows, "model")
    if not by_model:
        raise R2T2Error(f"{saved.folder} has no rows, so there is nothing to report")
    return [_model(saved, name, table) for name, table in by_model.items()]


def _by_value(rows: pa.Table, column: str) -> dict[str, pa.Table]:
    """The rows of each value of a column, in the order in which the values appear."""
    import pyarrow as pa

    parts: dict[str, list[pa.Table]] = {}
    start = 0
    for value, run in groupby(rows.column(column).to_pylist()):
        length = sum(1 for _ in run)
        parts.setdefault(value, []).append(rows.slice(start, length))
        start += length
    return {value: pa.concat_tables(tables) for value, tables in parts.items()}


def _model(saved: SavedRun, name: str, rows: pa.Table) -> ModelResults:
    summary = models_of(saved.summary, saved.folder)[name]
    models = saved.run.get("models", {})
    run = models.get(name) or models.get(name.partition(":")[2], {})  # schema 1 of a demo names gates: `narrow`
    by_strategy = _by_value(rows, "strategy")
    if BASE not in by_strategy:
        raise R2T2Error(f"{saved.folder} has no rows of strategy {BASE!r} for {name}, with which a report compares")
    first = by_strategy[BASE]
    shape = _shape(run, first)
    return ModelResults(
        name=name,
        experts=tuple(run.get("experts") or (f"expert {e + 1}" for e in range(shape[1]))),
        layers=tuple(run.get("layers") or summary.get("layers") or (f"layer {layer + 1}" for layer in range(shape[0]))),
        ids=first.column("id").to_pylist(),
        categories=first.column("category").to_pylist(),
        questions=first.column("question").to_pylist(),
        answers=first.column("answers").to_pylist(),
        router_weights=_matrix(first, "router_weights").reshape(first.num_rows, *shape),
        strategies={key: _strategy(key, table, shape) for key, table in by_strategy.items()},
        summary=summary,
        run=run,
        seconds=_seconds(saved.seconds_per_sample, name, list(by_strategy)),
        references=_references(saved, (name, run.get("name", name))),
    )


def _shape(run: Mapping[str, Any], rows: pa.Table) -> tuple[int, int]:
    if "routing_shape" in run:
        layers, experts = run["routing_shape"]
        return int(layers), int(experts)
    return 1, _matrix(rows, "router_weights").shape[1]


# Columns whose rows differ in length where neighbors are those in a ball, and the padding of a row: it changes neither
# the mean and the largest similarity nor the sum of the weights.
RAGGED: dict[str, Callable[[list[float]], float]] = {
    "similarities": lambda row: float(np.mean(row)) if row else 0.0,
    "kernel_weights": lambda row: 0.0,
}


def _matrix(rows: pa.Table, column: str) -> np.ndarray:
    """A column of lists as an array [B, n]; [B, 0] if it is absent or a strategy left it empty."""
    if column not in rows.column_names or rows.column(column).null_count:
        return np.zeros((rows.num_rows, 0))
    import pyarrow.compute as pc

    if column not in RAGGED or pc.count_distinct(pc.list_value_length(rows.column(column))).as_py() <= 1:
        return stack(rows.column(column))
    values, fill = rows.column(column).to_pylist(), RAGGED[column]
    longest = max(map(len, values))
    return np.array([[*row, *[fill(row)] * (longest - len(row))] for row in values], np.float32)


def _strategy(name: str, rows: pa.Table, shape: tuple[int, int]) -> StrategyRows:
    count = rows.num_rows
    steps = rows.column("step_predictions").to_pylist() if "step_predictions" in rows.column_names else []
    return StrategyRows(
        name=name,
        predictions=rows.column("prediction").to_pylist(),
        right=np.array(rows.column("right").to_pylist(), bool),
        weights=_matrix(rows, "weights").reshape(count, *shape),
        path=_matrix(rows, "path").reshape(count, -1, *shape),
        losses=_matrix(rows, "losses"),
        step_predictions=[row or [] for row in steps],
        step_right=_matrix(rows, "step_right").astype(bool),
        own_losses=_matrix(rows, "own_losses"),
        neighbors=[row or [] for row in rows.column("neighbors").to_pylist()],
        similarities=_matrix(rows, "similarities"),
        kernel_weights=_matrix(rows, "kernel_weights"),
        used_fallback=np.array(rows.column("used_fallback").to_pylist(), bool),
        evaluations=float(np.mean(rows.column("evaluations").to_pylist())),
    )


def _seconds(times: Mapping[str, float], model: str, strategies: list[str]) -> dict[str, float]:
    """Seconds per sample of each strategy that was timed, including the encoding of the sample."""
    encode = times.get(part_name(model, ENCODE), 0.0)
    parts = {name: part_name(part_name(model, name), ANSWER) for name in strategies}
    return {name: encode + times[part] for name, part in parts.items() if part in times}


def _references(saved: SavedRun, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The references of a model by id, recorded under the title of its rows or, for all benchmarks, under its name."""
    table = saved.references
    if not table.num_rows:
        return {}
    columns = [column for column in ("id", "question", "answer", "category") if column in table.column_names]
    own = [rows.select(columns) for model, rows in _by_value(table, "model").items() if model in names]
    return {record["id"]: record for rows in own for record in rows.to_pylist()}
