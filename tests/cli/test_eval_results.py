"""`r2t2 score`, `results` and `export` on a run of `r2t2 eval`."""

import csv
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.evaluation.statistics import Comparison, compare
from r2t2_jax.metrics import METRICS
from r2t2_jax.runs.reading import open_run
from tests.evaluation.toy_files import arguments

STRATEGIES = ["base", "ngd", "kernel_regression", "random_neighbors"]


def rows_of(run: Path, title: str, strategy: str) -> list[dict]:
    rows = open_run(run).rows.to_pylist()
    return [row for row in rows if (row["model"], row["strategy"]) == (title, strategy)]


def test_scoring_again_by_the_same_metric_gives_the_same_numbers(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()}
    out = tmp_path / "scores.json"
    assert main(["score", str(whole), "--metric", "exact_match", "--out", str(out)]) == 0
    assert "toy on one.jsonl: 30 questions, metric exact_match" in " ".join(capsys.readouterr().out.split())
    scored, summary = json.loads(out.read_text()), open_run(whole).summary
    for title, numbers in summary["models"].items():
        assert scored["models"][title]["strategies"] == numbers["strategies"]
        assert scored["models"][title]["families"] == numbers["families"]
    assert {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()} == before


def test_another_metric_reads_question_options_and_answers(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = []

    def half_for_left(prediction, sample):
        samples.append(sample)
        return 0.5 if sample.category == "left" else 0.0

    monkeypatch.setitem(METRICS, "odd", half_for_left)
    out = tmp_path / "scores.json"
    assert main(["score", str(whole), "--metric", "odd", "--out", str(out)]) == 0
    numbers = json.loads(out.read_text())["models"]["toy on one.jsonl"]
    left = sum(row["category"] == "left" for row in rows_of(whole, "toy on one.jsonl", "base"))
    assert 0 < left < 30
    assert numbers["strategies"]["ngd"]["accuracy"] == pytest.approx(left / 30, abs=1e-6)
    assert numbers["strategies"]["ngd"]["score"]["accuracy"] == pytest.approx(50 * left / 30, abs=1e-4)
    assert all(sample.question.startswith("What is") and len(sample.answers) == 1 for sample in samples)


def test_a_run_records_how_answers_were_decoded(whole: Path) -> None:
    models = json.loads((whole / "run.json").read_text())["models"]
    assert {(model["beams"], model["max_new_tokens"]) for model in models.values()} == {(1, 2)}


def table_of(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


def test_results_count_changed_answers_and_give_an_interval_of_the_gain(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["results", str(whole), "--format", "csv"]) == 0
    records = table_of(capsys.readouterr().out)
    assert [(row["benchmark"], row["strategy"]) for row in records] == [
        (name, strategy) for name in ("one.jsonl", "two.jsonl") for strategy in STRATEGIES
    ]
    for row in records:
        title = f"toy on {row['benchmark']}"
        base, own = (
            np.array([answer["right"] for answer in rows_of(whole, title, name)]) for name in ("base", row["strategy"])
        )
        assert int(row["n"]) == len(own)
        assert float(row["gain"]) == pytest.approx(own.mean() - base.mean())
        assert (int(row["wrong_to_right"]), int(row["right_to_wrong"])) == ((own & ~base).sum(), (base & ~own).sum())
        expected = compare(base, own) if row["strategy"] != "base" else Comparison(0, 0, 0)
        assert float(row["gain_low"]) == pytest.approx(expected.low)
        assert float(row["gain_high"]) == pytest.approx(expected.high)


def test_results_compare_runs_that_share_questions(
    files: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    more = ("--preset", "paper", "--benchmark", str(files / "one.jsonl"), "--strategy", "ngd")
    assert main(arguments(files, other, *more)) == 0
    capsys.readouterr()
    assert main(["results", str(whole), str(other)]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 and "| ---" not in printed
    assert "run: toy on one.jsonl: 30 questions" in printed and "Between runs" in printed
    assert "paired, Bonett & Price 2012" in " ".join(printed.split())
    assert main(["results", str(whole), str(other), "--format", "md"]) == 0
    overview, details, changes = capsys.readouterr().out.split("\n\n")
    assert overview.splitlines()[0] == "| run | model | strategy | one.jsonl accuracy | two.jsonl accuracy |"
    assert len(overview.splitlines()) == 2 + len(STRATEGIES) + 2
    assert len(details.splitlines()) == 2 + 2 * len(STRATEGIES) + 2
    first, second = (
        np.array([row["right"] for row in rows_of(run, "toy on one.jsonl", "ngd")]) for run in (whole, other)
    )
    (ngd,) = [line for line in changes.splitlines() if "| ngd |" in line]
    corrected, spoiled = int((second & ~first).sum()), int((first & ~second).sum())
    assert ngd.startswith(f"| one.jsonl | ngd | run | other | 30 | {100 * (second.mean() - first.mean()):+.1f} | ")
    assert ngd.endswith(f"| {corrected} | {spoiled} |")
    assert main(["results", str(whole), str(other), "--format", "latex"]) == 0
    tables = capsys.readouterr().out
    assert tables.count(r"\begin{tabular}") == tables.count(r"\bottomrule") == 3
    assert r"kernel\_regression" in tables and "accuracy \\%" in tables


def test_exported_files_have_the_format_of_lmms_eval(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "logs"
    assert main(["export", str(whole), "--lmms-eval", str(out)]) == 0
    assert "Wrote 12 files" in capsys.readouterr().out
    assert sorted(folder.name for folder in out.iterdir()) == sorted(f"toy__{name}" for name in STRATEGIES)
    (samples,) = (out / "toy__ngd").glob("*_samples_one.jsonl")
    (results,) = (out / "toy__ngd").glob("*_results.json")
    assert samples.name.removesuffix("_samples_one.jsonl") == results.name.removesuffix("_results.json")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    rows = rows_of(whole, "toy on one.jsonl", "ngd")
    for number, (line, row) in enumerate(zip(lines, rows, strict=True)):
        assert list(line) == [
            *("doc_id", "target", "filtered_resps", "token_counts", "doc_hash", "exact_match", "input", "question_id")
        ]
        assert (line["doc_id"], line["question_id"], line["input"]) == (number, row["id"], row["question"])
        assert (line["target"], line["filtered_resps"]) == (row["answers"][0], row["prediction"])
    content = json.loads(results.read_text())
    scores = [row["score"] for row in rows]
    assert content["results"]["one"]["exact_match,none"] == pytest.approx(np.mean(scores))
    assert content["results"]["one"]["exact_match_stderr,none"] == pytest.approx(np.std(scores, ddof=1) / 30**0.5)
    assert content["n-samples"]["two"] == {"original": 7, "effective": 7}
    joined = "".join(f"sample_{i}{line['doc_hash']}" for i, line in enumerate(lines))
    assert content["task_hashes"]["one"] == hashlib.sha256(joined.encode()).hexdigest()
    assert main(["export", str(whole), "--lmms-eval", str(out)]) == 2
    assert "exists; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        (["score", "WHOLE", "--metric", "none"], "unknown metric 'none'"),
        (["score", "FOLDER", "--metric", "vqa"], "holds no run"),
        (["score", "HALF", "--metric", "vqa"], "is not complete"),
        (["results"], "at least one folder"),
        (["results", "FOLDER"], "holds no run"),
        (["results", "HALF"], "is not complete"),
        (["export", "WHOLE"], "no format given: add --lmms-eval FOLDER"),
        (["export", "HALF", "--lmms-eval", "FOLDER/logs"], "is not complete"),
    ],
)
def test_bad_input_is_one_line(
    command: list[str], cause: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = Path(shutil.copytree(whole, tmp_path / "half"))
    (half / "summary.json").unlink()
    folders = {"WHOLE": whole, "HALF": half, "FOLDER": tmp_path / "none"}
    argv = [
        next((str(p) + word.removeprefix(n) for n, p in folders.items() if word.startswith(n)), word)
        for word in command
    ]
    assert main(argv) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("r2t2: ") and cause in error


def test_a_run_is_named_once(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(whole), str(whole / "batches" / "..")]) == 2
    assert capsys.readouterr().err.endswith("batches/.. is named twice; name each run once\n")


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        (("schema",), "2", "its schema is no number from 1 on"),
        (("schema",), -1, "its schema is no number from 1 on"),
        (("models", "toy on one.jsonl", "n"), -3, "'n' is -3; it must not be negative"),
        (
            ("models", "toy on one.jsonl", "strategies", "ngd", "accuracy"),
            1.5,
            "'strategies.ngd.accuracy' is 1.5; it must be from 0 to 1",
        ),
        (
            ("models", "toy on one.jsonl", "strategies", "ngd", "wrong_to_right"),
            31,
            "'strategies.ngd.wrong_to_right' is 31; it must be from 0 to n",
        ),
    ],
)
def test_a_damaged_summary_is_named_without_its_content(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: tuple[str, ...], value: object, cause: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    content = json.loads((whole / "summary.json").read_text())
    *parents, name = path
    part = content
    for parent in parents:
        part = part[parent]
    part[name] = value
    (tmp_path / "run" / "summary.json").write_text(json.dumps(content))
    assert main(["results", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert cause in error and "(" not in error


def test_a_file_that_is_not_json_is_named_once(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for name in ("summary.json", "run.json"):
        (tmp_path / "run" / name).write_text("{")
        assert main(["results", str(tmp_path / "run")]) == 2
        assert capsys.readouterr().err.count(name) == 1
    assert main(["eval", "--config", str(tmp_path / "run" / "run.json"), "--out", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.count("run.json") == 1


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracker_gets_one_run_per_model_and_strategy(
    whole: Path, tracker: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, dict]] = []
    package = ModuleType(tracker)
    package.init = lambda **named: calls.append(("init", named))
    package.log = lambda numbers: calls.append(("log", numbers))
    package.finish = lambda: calls.append(("finish", {}))
    monkeypatch.setitem(sys.modules, tracker, package)
    assert main(["export", str(whole), f"--{tracker}", "project"]) == 0
    assert capsys.readouterr().out == f"Logged 8 runs, one per model and strategy, to {tracker} as project.\n"
    assert [kind for kind, _ in calls] == ["init", "log", "finish"] * 8
    summary = open_run(whole).summary["models"]
    numbers = {call["name"]: logged for (_, call), (_, logged) in zip(calls[::3], calls[1::3], strict=True)}
    ngd = summary["toy on one.jsonl"]["strategies"]["ngd"]
    assert numbers["run/toy on one.jsonl/ngd"]["accuracy"] == ngd["accuracy"]
    assert calls[0][1]["config"]["strategy"] == "base" and calls[0][1]["project"] == "project"
    package.log = lambda numbers: 1 / 0
    assert main(["export", str(whole), f"--{tracker}", "project"]) == 2
    assert f"{tracker} cannot log the run (division by zero)" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, tracker, None)
    assert main(["export", str(whole), f"--{tracker}", "project"]) == 2
    assert "pip install -e '.[tracking]'" in capsys.readouterr().err


def test_every_command_that_prints_results_prints_json(
    files: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, bank = str(files / "one.jsonl"), str(files / "bank")
    commands = {
        "models": arguments(files, whole, "--json"),
        "questions": arguments(files, whole, "--dry-run", "--json"),
        "metric": ["score", str(whole), "--metric", "exact_match", "--json"],
        "inspection": ["bank", "inspect", bank, "--json"],
        "passed": ["check", "tests.toy_port:toy", "--data", one, "--json"],
    }
    for key, words in commands.items():
        assert main([*words, "-q"]) == 0
        captured = capsys.readouterr()
        assert key in json.loads(captured.out)
        assert captured.err == ""
    assert main(["results", str(whole), "--json"]) == 0
    assert {row["strategy"] for row in json.loads(capsys.readouterr().out)} == set(STRATEGIES)
