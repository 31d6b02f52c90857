"""`r2t2 demo` end to end, on the toy port."""

import dataclasses
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import r2t2_jax.datasets
import r2t2_jax.evaluation.benchmark
import r2t2_jax.plugins
import r2t2_jax.reporting.report
from r2t2_jax.cli.demo import demo_strategies
from r2t2_jax.cli.main import main
from r2t2_jax.evaluation.batch import PreparedBatch
from r2t2_jax.runs.reading import open_run
from tests.toy_port import make_samples, toy

STRATEGIES = [
    "base",
    "router_mean",
    "uniform",
    "random_neighbors",
    "shuffled_references",
    "mode_finding",
    "kernel_regression",
    "kernel_regression_alpha",
    "ngd_paper",
    "ngd",
    "best_of_n",
    "task_routing",
    "oracle",
]
SPARSE = ["base", "uniform", "ngd_c3po", "oracle", "oracle_permuted", "base_permuted"]  # best_fixed needs an atlas
MEASURES = ["accuracy", "ci95", "gap_recovered", "wrong_to_right", "right_to_wrong", "evaluations_per_sample"]


@pytest.fixture
def toy_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str):
        preset = {
            "space.kind": "simplex",
            "descent.optimizer": "adam",
            "descent.learning_rate": 0.3,
            "neighborhood.k": 3,
            "mode.k": 5,
        }
        return dataclasses.replace(toy(), name=name, presets={"pocket": preset})

    def load_dataset(name: str, split: str, n: int | None = None, seed: int = 0):
        assert name == "pocket"
        return make_samples(n or 40, seed=seed + 100 * (split == "reference"), hinted=0.4)

    monkeypatch.setattr(r2t2_jax.plugins, "load", load)
    monkeypatch.setattr(r2t2_jax.datasets, "load_dataset", load_dataset)


@pytest.mark.usefixtures("toy_everywhere")
def test_the_printed_numbers_are_those_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["demo", "--out", str(out), "--samples", "30", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["schema"] == 2
    assert list(summary["models"]) == ["pocket:narrow", "pocket:balanced", "pocket:sparse"]
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    for model, numbers in summary["models"].items():
        assert numbers["n"] == 30
        assert list(numbers["strategies"]) == (SPARSE if model == "pocket:sparse" else STRATEGIES)
        for name, measures in numbers["strategies"].items():
            assert list(measures) == MEASURES
            mine = [row for row in rows if row["model"] == model and row["strategy"] == name]
            assert len(mine) == 30
            assert measures["accuracy"] == pytest.approx(sum(row["right"] for row in mine) / 30, abs=1e-6)
            assert f"{100 * measures['accuracy']:.1f}" in printed
        if model != "pocket:sparse":
            assert numbers["strategies"]["task_routing"]["accuracy"] == 1
            assert numbers["strategies"]["ngd"]["wrong_to_right"] > 0
    assert all(row["id"].startswith("3-") for row in rows)
    for strategy, steps in (("ngd", 11), ("ngd_paper", 11), ("oracle", 0)):
        mine = [row for row in rows if row["strategy"] == strategy]
        assert {len(row["step_predictions"]) for row in mine} == {len(row["step_right"]) for row in mine} == {steps}
        assert not steps or [row["step_right"][-1] for row in mine] == [row["right"] for row in mine]
    saved = open_run(out)
    assert (saved.settings["seed"], saved.settings["limit"], saved.run["data"]["tests"]["n"]) == (3, 30, 30)
    candidates = [row for row in saved.references.to_pylist() if row["model"] == "pocket:narrow"]
    correct = [row for row in candidates if row["score"] >= 0.5]
    assert summary["models"]["pocket:narrow"]["references"] == {"candidates": len(candidates), "correct": len(correct)}
    assert {name for row in rows if row["model"] == "pocket:narrow" for name in row["neighbors"]} <= {
        row["id"] for row in correct
    }
    # Once more: nothing is computed, the same is printed.
    assert main(["demo", "--config", str(out / "run.json"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == printed
    assert max(len(line) for line in printed.splitlines() if not line.startswith("Wrote")) <= 80


def test_a_quick_demo_skips_slow_strategies() -> None:
    preset = {"pocket": {"neighborhood.k": 3}}
    port = dataclasses.replace(toy(), presets=preset)
    skipped = ["router_mean", "shuffled_references", "kernel_regression_alpha", "ngd_paper", "best_of_n", "oracle"]
    assert list(demo_strategies(port)) == STRATEGIES
    assert list(demo_strategies(port, quick=True)) == [name for name in STRATEGIES if name not in skipped]


@pytest.mark.usefixtures("toy_everywhere")
def test_a_resumed_demo_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(r2t2_jax.reporting.report, "write_report", lambda run: (run / "report.html").touch())
    arguments = ["--samples", "60", "--seed", "3"]
    assert main(["demo", "--out", str(tmp_path / "one"), *arguments]) == 0
    answered: list[str] = []
    score = PreparedBatch.score

    def interrupted(self: PreparedBatch, name: str, *rest: Any) -> Any:
        answered.append(name)
        if len(answered) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(self, name, *rest)

    monkeypatch.setattr(PreparedBatch, "score", interrupted)
    monkeypatch.setattr(r2t2_jax.evaluation.benchmark, "threads_at_a_time", lambda: 1)
    assert main(["demo", "--out", str(tmp_path / "two"), *arguments]) == 0
    assert re.search(
        r"SIGTERM: stopped after 21 of 67 batches\. Resume with: r2t2 demo --config", capsys.readouterr().err
    )
    assert not (tmp_path / "two" / "summary.json").exists()
    assert main(["demo", "--out", str(tmp_path / "two"), "--samples", "50", "--seed", "3"]) == 2
    assert "settings.limit is 60 there and 50 here" in capsys.readouterr().err
    assert main(["demo", "--config", str(tmp_path / "two" / "run.json"), "--out", str(tmp_path / "two")]) == 0
    assert len(answered) == 64
    one, two = ((tmp_path / name / "summary.json").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.usefixtures("toy_everywhere")
def test_a_failed_run_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(r2t2_jax.datasets, "load_dataset", lambda **_: make_samples(4, seed=0, hinted=1))
    assert main(["demo", "--out", str(tmp_path / "run"), "--samples", "4"]) == 2
    assert "neighbors from a bank of 4 references" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("toy_everywhere")
def test_an_unknown_embedder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "run"), "--samples", "4", "--embedder", "word2vec"]) == 2
    assert "unknown embedder 'word2vec'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("toy_everywhere")
def test_another_embedder_retrieves_the_neighbors(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["demo", "--out", str(out), "--quick", "--samples", "30", "--embedder", "hashed_words"]) == 0
    run = json.loads((out / "run.json").read_text())
    assert {model["embedder"] for model in run["models"].values()} == {"hashed_words-512@1"}
    questions = {row["id"]: row["question"] for row in pq.read_table(out / "references.parquet").to_pylist()}
    ngd = [row for row in pq.read_table(out / "rows.parquet").to_pylist() if row["strategy"] == "ngd"]
    assert all(questions[name] == row["question"] for row in ngd for name in row["neighbors"])  # three texts in all
