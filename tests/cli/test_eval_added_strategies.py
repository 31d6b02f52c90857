"""`r2t2 eval` with more strategies than the complete run in its folder: only these are computed."""

import json
import signal
from pathlib import Path

import pytest

from r2t2_jax.bank.storage import folder_digest
from r2t2_jax.cli.main import main
from r2t2_jax.evaluation import benchmark
from r2t2_jax.evaluation.benchmark import BenchmarkEvaluator
from r2t2_jax.evaluation.job import adds_strategies
from tests.evaluation.toy_files import arguments

FIRST = ("--strategy", "kernel_regression,base")


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "timings.jsonl"]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def first(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two strategies."""
    out = tmp_path_factory.mktemp("first") / "run"
    assert main(arguments(files, out, *FIRST)) == 0
    return out


@pytest.fixture
def copy(first: Path, tmp_path: Path) -> Path:
    """The same run, for tests that change it."""
    out = tmp_path / "run"
    for name, content in contents(first).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    (out / "timings.jsonl").write_bytes((first / "timings.jsonl").read_bytes())
    return out


def test_only_the_added_strategies_are_computed_and_the_bytes_are_those_of_one_run(
    files: Path, whole: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    computed, evaluate_batch, rows = set(), benchmark.evaluate_batch, BenchmarkEvaluator.rows

    def record(samples, *positional, **named):
        computed.add(tuple(samples.strategies))
        return evaluate_batch(samples, *positional, **named)

    def interrupt(self, batch, prepared):
        if batch.number == 3:
            signal.raise_signal(signal.SIGTERM)
        return rows(self, batch, prepared)

    monkeypatch.setattr(benchmark, "evaluate_batch", record)
    monkeypatch.setattr(BenchmarkEvaluator, "rows", interrupt)
    assert main(arguments(files, copy)) == 0
    assert "Resume with: r2t2 eval" in capsys.readouterr().err
    assert (copy / "earlier").is_dir() and not (copy / "summary.json").exists()
    monkeypatch.setattr(BenchmarkEvaluator, "rows", rows)
    assert main(arguments(files, copy)) == 0
    assert computed == {("ngd", "random_neighbors")}
    assert contents(copy) == contents(whole)
    table = capsys.readouterr().out
    assert all(name in table for name in ("base", "ngd", "kernel_regression", "random_neighbors"))


def test_fewer_or_reordered_strategies_keep_every_row(
    files: Path, first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(first)
    assert main(arguments(files, first, "--strategy", "base,kernel_regression")) == 0
    assert "no row is removed" not in capsys.readouterr().err
    assert main(arguments(files, first, "--strategy", "base")) == 0
    captured = capsys.readouterr()
    assert "holds a run of base, kernel_regression; no row is removed" in captured.err
    assert "kernel_regression" in captured.out
    assert contents(first) == before


def test_a_command_that_adds_one_and_leaves_out_another_keeps_both(
    files: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = BenchmarkEvaluator.rows

    def interrupt(self, batch, prepared):
        if batch.number == 3:
            signal.raise_signal(signal.SIGTERM)
        return rows(self, batch, prepared)

    with monkeypatch.context() as patch:
        patch.setattr(BenchmarkEvaluator, "rows", interrupt)
        assert main(arguments(files, copy, "--strategy", "router_mean")) == 0
    assert not (copy / "summary.json").exists()
    assert main(arguments(files, copy, "--strategy", "router_mean")) == 0  # the same command continues
    assert json.loads((copy / "run.json").read_text())["settings"]["strategy"] == "kernel_regression,base,router_mean"
    (summary, _) = json.loads((copy / "summary.json").read_text())["models"].values()
    assert list(summary["strategies"]) == ["base", "kernel_regression", "router_mean"]


@pytest.mark.parametrize("other", [("--seed", "1"), ("--preset", "paper"), ("--limit", "20"), ("--batch-size", "5")])
def test_any_other_difference_is_refused(
    files: Path, first: Path, other: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(first)
    assert main(arguments(files, first, *other)) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert f"settings.{other[0][2:].replace('-', '_')} is " in error
    assert contents(first) == before


def test_a_run_that_is_not_complete_is_not_extended(
    files: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "summary.json").unlink()
    before = contents(copy)
    assert main(arguments(files, copy)) == 2
    assert "it is not complete: complete it with its own settings first" in capsys.readouterr().err
    assert contents(copy) == before


def test_a_strategy_that_cannot_run_leaves_the_complete_run(
    files: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(copy)
    assert main(arguments(files, copy, "--strategy", "base,kernel_regression,atlas")) == 2
    assert "atlas" in capsys.readouterr().err
    assert contents(copy) == before
    assert json.loads(before["run.json"])["settings"]["strategy"] == "kernel_regression,base"


def test_a_bank_that_got_its_atlas_since_is_the_same_bank(files: Path, first: Path) -> None:
    saved = json.loads((first / "run.json").read_text())
    settings = saved["settings"] | {"strategy": "kernel_regression,base,atlas"}
    requested = saved | {"settings": settings, "bank": {"digest": "with an atlas"}}
    digest = folder_digest(files / "bank")
    assert saved["bank"] == {"digest": digest} == {"digest": folder_digest(files / "bank", atlas=False)}
    assert adds_strategies(saved, requested, without_atlas=digest)
    assert not adds_strategies(saved, requested, without_atlas="another bank")
    assert not adds_strategies(saved, requested)


def test_a_dry_run_counts_what_is_left_to_do(
    files: Path, first: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(first)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(arguments(files, first, "--dry-run")) == 0
    plan, _, table = capsys.readouterr().out.partition("Cost of 37 questions")
    assert "recorded    base, kernel_regression: not computed again" in plan
    assert "ngd" in table and "random_neighbors" in table and "kernel_regression" not in table
    assert main(arguments(files, first, *FIRST, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert "to do       nothing: the run is complete" in printed and "FLOPs" not in printed
    assert contents(first) == before
