"""Scores the stored answers of a run with another metric, without model and images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.records import CORRECT
from r2t2_jax.evaluation.statistics import summarize_benchmark
from r2t2_jax.metrics import check_samples, get_metric, get_set_score
from r2t2_jax.runs.reading import SavedRun, refuse_damaged

NO_IMAGE = np.zeros((1, 1, 3), np.uint8)  # no metric looks at the image
COLUMNS = ("id", "question", "answers", "category")
EVAL_COLUMNS = ("options", "style")  # in runs of `r2t2 eval` only; the questions of other commands are open


def rescore(saved: SavedRun, metric: str) -> dict[str, Any]:
    """The numbers of each model under another metric, as `summarize_benchmark` returns them.

    Raises:
        R2T2Error: the metric is unknown or cannot score the run's questions, or the run is not complete, has no rows,
            or lacks the untouched model.
    """
    score = get_metric(metric)
    if not saved.complete:
        raise R2T2Error(saved.incomplete)
    with refuse_damaged(saved.folder):
        return _rescore(saved, metric, score)


def _rescore(saved: SavedRun, metric: str, score: Callable[[str, Sample], float]) -> dict[str, Any]:
    data = saved.run.get("data", {})
    numbers = {}
    for title, table in _by_model(saved.rows):
        strategies = table["strategy"].to_pylist()
        if "base" not in strategies:
            raise R2T2Error(f"{saved.folder} has no rows of strategy 'base' for {title}: there is nothing to compare")
        samples = [_sample(row) for row in table.select(_present(table)).to_pylist()]
        check_samples(metric, samples, title)
        scores = [score(text, sample) for text, sample in zip(table["prediction"].to_pylist(), samples, strict=True)]
        scored = pa.table(
            {
                "strategy": strategies,
                "score": pa.array(scores, pa.float64()),
                "right": [score >= CORRECT for score in scores],
                "evaluations": table["evaluations"],
            }
        )
        benchmark = table["benchmark"][0].as_py() if "benchmark" in table.column_names else ""
        set_score = get_set_score(data.get(benchmark, {}).get("set_score", "accuracy"))
        base = [sample for name, sample in zip(strategies, samples, strict=True) if name == "base"]
        numbers[title] = summarize_benchmark(scored, base, set_score)
    return numbers


def _by_model(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    import pyarrow.compute as pc

    if not rows.num_rows:
        raise R2T2Error("the run holds no rows: there is nothing to score")
    for title in rows["model"].unique().to_pylist():
        yield title, rows.filter(pc.field("model") == title)


def _present(table: pa.Table) -> list[str]:
    return [*COLUMNS, *(name for name in EVAL_COLUMNS if name in table.column_names)]


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(
        id=row["id"],
        image=NO_IMAGE,
        question=row["question"],
        answers=tuple(row["answers"]),
        options=tuple(row.get("options") or ()),
        style=row.get("style") or "plain",
        category=row["category"],
    )
