"""Logs the summary of a run to an experiment tracker: Weights & Biases, or Trackio, which has the same interface.

One tracked run per strategy, in the group of the run's folder: its config holds the settings and the model, its summary
accuracy, interval, changed answers and evaluations. Both trackers also work without a network (`WANDB_MODE=offline`;
Trackio writes to a local database).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from r2t2_jax.errors import R2T2Error, missing_extra
from r2t2_jax.evaluation.statistics import models_of
from r2t2_jax.runs.reading import SavedRun

Tracker = Literal["wandb", "trackio"]


def log_summary(saved: SavedRun, tracker: Tracker, project: str) -> int:
    """Log the numbers of every model and strategy of a complete run; returns the number of tracked runs.

    Args:
        saved: the run.
        tracker: the package.
        project: name of the project in the tracker.

    Raises:
        R2T2Error: the package is not installed, the run is not complete, or the tracker refuses the data.
    """
    entries = list(tracked_entries(saved))
    try:
        package = importlib.import_module(tracker)
    except ImportError as error:
        raise missing_extra(f"--{tracker}", tracker, "tracking") from error
    try:
        for name, config, numbers in entries:
            group = saved.folder.resolve().name
            package.init(project=project, name=f"{group}/{name}", group=group, config=config)
            package.log(numbers)
            package.finish()
    except Exception as error:  # trackers raise many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise R2T2Error(f"--{tracker} {project}: {tracker} cannot log the run ({reason})") from error
    return len(entries)


def tracked_entries(saved: SavedRun) -> Iterator[tuple[str, dict[str, Any], dict[str, float]]]:
    """Name, config and numbers of every model and strategy of a complete run."""
    settings = {"command": saved.run["command"], **saved.settings}
    for title, summary in models_of(saved.summary, saved.folder).items():
        for strategy, row in summary["strategies"].items():
            config = {**settings, "model_title": title, "strategy": strategy, "questions": summary["n"]}
            yield f"{title}/{strategy}", config, _numbers(row, summary, strategy)


def _numbers(row: Mapping[str, Any], summary: Mapping[str, Any], strategy: str) -> dict[str, float]:
    low, high = row["ci95"]
    names = ("accuracy", "wrong_to_right", "right_to_wrong", "evaluations_per_sample")
    families = {
        f"accuracy/{family}": numbers["accuracy"][strategy] for family, numbers in summary.get("families", {}).items()
    }
    return {**{name: row[name] for name in names}, "accuracy_low": low, "accuracy_high": high, **families}
