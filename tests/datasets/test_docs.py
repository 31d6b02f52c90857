"""docs/datasets.md names every dataset and metric, and its numbers equal the recorded ones."""

import json
import re
from pathlib import Path

from benchmarks.easy_vqa import results_table
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.metrics import METRICS, SET_SCORES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
GENERAL = ("exact_match",)


def test_every_dataset_has_a_row_with_metric_and_split() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*)$", PAGE.partition("## Your own questions")[0], re.MULTILINE))
    assert set(rows) == set(DATASETS)
    for name, dataset in DATASETS.items():
        assert f"`{dataset.metric}`" in rows[name]
        assert all(split in rows[name] for split in dataset.splits[:1])
        assert dataset.set_score in (*re.findall(r"; `(\w+)`", rows[name]), "accuracy")


def test_every_metric_is_named() -> None:
    scoring = PAGE.partition("## Scoring")[2]
    assert not [name for name in METRICS if f"`{name}`" not in scoring and name not in GENERAL]
    assert set(SET_SCORES) - {"accuracy"} <= set(METRICS) | {"cvbench"}


def test_the_results_equal_the_recorded_ones() -> None:
    recorded = json.loads((ROOT / "benchmarks" / "results" / "easy_vqa.json").read_text(encoding="utf-8"))
    assert results_table(recorded) in PAGE
    for gate in recorded["gates"].values():
        assert f"{gate['references']['kept']:,} with" in PAGE
        assert f"{100 * gate['references']['question_only']:.1f} %" in PAGE


def test_every_recorded_file_is_listed_with_its_license() -> None:
    folder = ROOT / "tests" / "golden" / "benchmarks"
    listed = PAGE.partition("## Recorded files")[2]
    assert not [path.name for path in folder.rglob("*.json") if path.name not in listed]
