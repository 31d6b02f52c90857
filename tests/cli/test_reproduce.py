"""`r2t2 reproduce` from the command line to the written tables, on the toy port."""

import dataclasses
import json
from pathlib import Path

import pytest

import r2t2_jax.evaluation.setup
import r2t2_jax.reproduction.measure
import r2t2_jax.reproduction.plan
from r2t2_jax.cli.main import main
from tests.toy_port import make_samples, toy

SAMPLES = 12


@pytest.fixture(autouse=True)
def use_the_toy_port(monkeypatch: pytest.MonkeyPatch) -> None:
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
        index = ("pocket", "gqa", "textvqa").index(name)
        return make_samples(n or 60, seed=seed + 10 * index + 100 * (split == "reference"), hinted=0.4)

    monkeypatch.setattr(r2t2_jax.reproduction.plan, "load", load)
    for module in (r2t2_jax.reproduction.plan, r2t2_jax.evaluation.setup):
        monkeypatch.setattr(module, "load_dataset", load_dataset)


def run(table: str, out: Path, *options: str, model: str = "pocket:narrow") -> int:
    return main(["reproduce", table, "--model", model, "--out", str(out), "--samples", str(SAMPLES), *options])


def test_a_table_has_the_papers_numbers_the_measured_ones_and_the_trend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("table11", tmp_path / "run", model="pocket") == 0  # a part of table6
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "table6.json").read_text())
    assert list(result["models"]) == ["pocket:narrow", "pocket:balanced"]
    for part in result["models"]["pocket:narrow"].values():
        assert part["n"] == SAMPLES
        assert [row["name"] for row in part["rows"]] == ["base", "linear", "polynomial", "matern", "gaussian"]
        assert [row.get("paper") for row in part["rows"]] == [None, 76.29, 77.68, 78.72, 80.67]
        assert sum(part["trend"][word] for word in ("shown", "reversed", "open")) == 6
    assert "Trend:" in printed
    assert {path.suffix for path in (tmp_path / "run").glob("table6.*")} == {".json", ".csv", ".md"}
    own = {row["name"]: row["accuracy"] for row in result["models"]["pocket:narrow"]["own"]["rows"]}
    assert own["gaussian"] > own["base"]  # the gate gets the expert for only 40 % of the samples


def test_equal_rows_are_measured_once(tmp_path: Path) -> None:
    assert run("sensitivity_quality", tmp_path / "run") == 0
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    narrow = [part for part in plan if part["name"].startswith("pocket:narrow")]
    # base and uniform under either setting are one measurement; the four others are two each
    assert [part["samples"] for part in narrow] == [2 + 4 * 2]


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("table9", tmp_path / "whole", "--block", "5") == 0
    original = r2t2_jax.reproduction.measure.BlockEvaluator.rows
    calls = []

    def rows(self, batch):
        calls.append(batch)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(r2t2_jax.reproduction.measure.BlockEvaluator, "rows", rows)
    assert run("table9", tmp_path / "cut", "--block", "5") == 130
    assert not (tmp_path / "cut" / "summary.json").exists()
    monkeypatch.setattr(r2t2_jax.reproduction.measure.BlockEvaluator, "rows", original)
    assert run("table9", tmp_path / "cut", "--block", "5") == 0
    for name in ("summary.json", "table9.json", "table9.csv", "table9.md"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_the_block_size_changes_no_number(tmp_path: Path) -> None:
    for block in (5, 50):
        assert run("sensitivity_scope", tmp_path / str(block), "--block", str(block)) == 0
    tables = [(tmp_path / block / "sensitivity_scope.json").read_bytes() for block in ("5", "50")]
    assert tables[0] == tables[1]


def test_references_are_refused_unless_leakage_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def references(name: str, split: str, n: int | None = None, seed: int = 0):
        return make_samples(60, seed=100, hinted=0.4)[: n or 60]

    for module in (r2t2_jax.reproduction.plan, r2t2_jax.evaluation.setup):
        monkeypatch.setattr(module, "load_dataset", references)
    assert run("table11", tmp_path / "run") == 2
    assert f"{SAMPLES} of {SAMPLES} questions are also references in the bank" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run("table11", tmp_path / "run", "--allow-leakage") == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["allow_leakage"] is True


def test_an_unknown_table_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("table1", tmp_path / "run") == 2
    assert "unknown table 'table1'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_figures_come_with_a_report(tmp_path: Path) -> None:
    assert run("figure14", tmp_path / "run") == 0
    result = json.loads((tmp_path / "run" / "figure4.json").read_text())["models"]["pocket:narrow"]["own"]
    rows = {row["name"]: row for row in result["rows"]}
    counts = {kind: sum(map(sum, table)) for kind, table in result["numbers"]["counts"].items()}
    assert sum(counts.values()) == SAMPLES
    assert counts["wrong → right"] == rows["ngd"]["wrong_to_right"]
    assert counts["right → wrong"] == rows["ngd"]["right_to_wrong"]
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "report" / "pocket-narrow-surrogate.png").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("table6", tmp_path / "run", "--dry-run", "--data", "mmbench", "gqa") == 0
    assert f"{2 * SAMPLES} questions" in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == []


def test_several_datasets_are_ranked_among_the_papers_models(tmp_path: Path) -> None:
    assert run("table3", tmp_path / "run", "--data", "gqa", "textvqa") == 0
    part = json.loads((tmp_path / "run" / "table3.json").read_text())["models"]["pocket:narrow"]["own"]
    assert part["n"] == 2 * SAMPLES
    ours = part["numbers"]["scores"]["pocket:narrow ngd (here)"]
    assert set(ours) == {"GQA", "TextVQA"}
    # the rank is one more than the number of better rows of the paper
    for name, places in part["numbers"]["places"].items():
        for column, place in places.items():
            rows = [row for row in part["tables"][0]["rows"] if "(here)" not in row[0]]
            cells = [row[part["tables"][0]["head"].index(column)] for row in rows]
            better = sum(cell != "–" and float(cell) > part["numbers"]["scores"][name][column] for cell in cells)
            assert place == 1 + better
    ngd = next(row for row in part["rows"] if row["name"] == "ngd")
    models = json.loads((tmp_path / "run" / "run.json").read_text())["models"]
    assert list(models) == ["pocket:narrow on gqa", "pocket:narrow on textvqa"]
    assert ngd["ci95"][0] <= ngd["accuracy"] <= ngd["ci95"][1]
