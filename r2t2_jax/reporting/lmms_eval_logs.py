"""A run as result files of lmms-eval 0.7, with one folder per strategy, as if each were a model.

    <model>__<strategy>/<date>_results.json             mean scores by task, for lmms-eval's tables
    <model>__<strategy>/<date>_samples_<task>.jsonl     one line per question

Tasks keep the names of this project, since prompts may differ from lmms-eval's; a number is added where two names would
be equal, also on file systems that ignore case. `doc_id` counts the questions in the order of the run, `question_id` is
the official id, and `doc_hash` hashes id, question and answers. The date is the time at which the run ended, so that
the same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.benchmark import model_of
from r2t2_jax.evaluation.statistics import models_of
from r2t2_jax.reporting.formatting import distinct_names
from r2t2_jax.runs.atomic_io import atomic_folder
from r2t2_jax.runs.folder import SUMMARY
from r2t2_jax.runs.reading import SavedRun, refuse_damaged

COLUMNS = ("model", "strategy", "id", "question", "answers", "prediction", "score", "benchmark")


def export_lmms_eval(saved: SavedRun, out: Path) -> list[Path]:
    """Write a run's answers and scores as files of lmms-eval.

    Args:
        saved: a complete run of `r2t2 eval`.
        out: the folder to create; it must not exist. It is written completely or not at all.

    Returns:
        The paths of the files.

    Raises:
        R2T2Error: the run is of another command or not complete, or the folder exists or cannot be written.
    """
    if saved.run["command"] != "eval":
        raise R2T2Error(f"{saved.folder} is a run of r2t2 {saved.run['command']}; give one of r2t2 eval")
    if out.exists():
        raise R2T2Error(f"{out} exists; choose another folder")
    with refuse_damaged(saved.folder):
        files = dict(_files(saved, models_of(saved.summary, saved.folder)))

    def write(draft: Path) -> None:
        for name, content in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(content, encoding="utf-8", newline="\n")

    try:
        atomic_folder(out, write)
    except OSError as error:
        raise R2T2Error(f"cannot write {out}: {error.strerror}") from error
    return [out / name for name in files]


def _files(saved: SavedRun, models: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    ended = datetime.fromtimestamp((saved.folder / SUMMARY).stat().st_mtime, UTC).strftime("%Y%m%d_%H%M%S")
    by_strategy: dict[str, dict[str, list[dict[str, Any]]]] = {}
    benchmarks = saved.rows["benchmark"].unique().to_pylist()
    tasks = distinct_names(benchmarks, lambda name: re.sub(r"\W+", "_", Path(name).stem), "_")
    for row in saved.rows.select(COLUMNS).to_pylist():
        by_strategy.setdefault(row["strategy"], {}).setdefault(row["model"], []).append(row)
    for strategy, by_title in by_strategy.items():
        title, rows = next(iter(by_title.items()))
        model = f"{model_of(title, rows[0]['benchmark'])}/{strategy}"
        folder = re.sub(r"[^\w.,=-]+", "__", model)
        results: dict[str, Any] = {}
        for title, rows in by_title.items():
            task, metric = tasks[rows[0]["benchmark"]], models[title]["metric"]
            lines = [_line(number, row, metric) for number, row in enumerate(rows)]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            yield f"{folder}/{ended}_samples_{task}.jsonl", text
            _add_task(results, task, metric, [row["score"] for row in rows], lines)
        results |= {
            "config": {"model": "r2t2", "model_args": f"strategy={strategy}", "settings": saved.settings},
            "model_source": "r2t2",
            "model_name": model,
            "model_name_sanitized": folder,
            "date": ended,
        }
        yield f"{folder}/{ended}_results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n"


def _line(number: int, row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    document = {name: row[name] for name in ("id", "question", "answers")}
    return {
        "doc_id": number,
        "target": str(row["answers"][0] if row["answers"] else ""),
        "filtered_resps": row["prediction"],
        "token_counts": [None],
        "doc_hash": _hash(json.dumps(document, indent=2, ensure_ascii=False)),
        metric: row["score"],
        "input": row["question"],
        "question_id": row["id"],
    }


def _add_task(
    results: dict[str, Any], task: str, metric: str, scores: Sequence[float], lines: Sequence[Mapping[str, Any]]
) -> None:
    n = len(scores)
    error = float(np.std(scores, ddof=1)) / math.sqrt(n) if n > 1 else "N/A"
    entries = {
        "results": {"alias": task, f"{metric},none": float(np.mean(scores)), f"{metric}_stderr,none": error},
        "configs": {"task": task, "output_type": "generate_until", "metric_list": [{"metric": metric}]},
        "versions": version("r2t2-jax"),
        "n-shot": 0,
        "higher_is_better": {metric: True},
        "n-samples": {"original": n, "effective": n},
        "task_hashes": _hash("".join(f"sample_{i}{line['doc_hash']}" for i, line in enumerate(lines))),
    }
    for key, value in entries.items():
        results.setdefault(key, {})[task] = value


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
