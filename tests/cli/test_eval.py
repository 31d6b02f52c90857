"""`r2t2 eval`: from the command line to a run, and what is refused."""

import json
import re
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.cli.main import main
from r2t2_jax.evaluation.batch import PreparedBatch
from r2t2_jax.evaluation.benchmark import BenchmarkEvaluator
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.evaluation.feature_cache import with_samples
from r2t2_jax.method import forward as passes
from r2t2_jax.method import rerouting
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.reporting.figures.flow import flow_figure
from r2t2_jax.reporting.results import read_results
from r2t2_jax.runs.reading import open_run
from r2t2_jax.runtime.batching import map_in_chunks
from tests.evaluation.toy_files import MODEL, arguments, write_questions
from tests.toy_port import make_samples, toy

STRATEGIES = ("base", "ngd", "kernel_regression", "random_neighbors")


def test_rows_are_those_of_an_evaluation_in_memory(files: Path, whole: Path) -> None:
    """For any batches, order and padding: the same answers, routing and losses to the last bit."""
    samples = make_samples(30, seed=1, hinted=0.4)
    bank = ReferenceBank.open(files / "bank")
    bank = with_samples(bank, toy(), make_samples(40, seed=3, hinted=0.4))
    preset = Preset.from_mapping(toy().presets["toy"])
    order = sorted(samples, key=lambda sample: -len(sample.question))
    chosen = {name: strategy(name, preset) for name in STRATEGIES}
    expected = evaluate(toy(), bank, encode_questions(toy(), order), chosen, get_metric("exact_match"))
    rows = open_run(whole).rows.to_pylist()
    for result in expected:
        mine = [row for row in rows if row["strategy"] == result.name and row["benchmark"].endswith("one.jsonl")]
        assert [row["id"] for row in mine] == [sample.id for sample in order]
        assert [row["prediction"] for row in mine] == result.predictions
        for name in ("weights", "path", "losses", "kernel_weights"):
            values = np.array([row[name] for row in mine], np.float32).reshape(getattr(result, name).shape)
            np.testing.assert_array_equal(values, getattr(result, name))
        references = [bank.records[j]["id"] for j in result.neighbors.ravel()]
        assert [name for row in mine for name in row["neighbors"]] == references


def test_the_summary_counts_the_rows(whole: Path, capsys: pytest.CaptureFixture[str], files: Path) -> None:
    saved = open_run(whole)
    assert list(saved.summary["models"]) == ["toy on one.jsonl", "toy on two.jsonl"]
    for title, n in (("toy on one.jsonl", 30), ("toy on two.jsonl", 7)):
        summary = saved.summary["models"][title]
        assert summary["n"] == n and list(summary["strategies"]) == list(STRATEGIES)
        for name, entry in summary["strategies"].items():
            mine = [row for row in saved.rows.to_pylist() if (row["model"], row["strategy"]) == (title, name)]
            assert len(mine) == n
            assert entry["accuracy"] == pytest.approx(sum(row["right"] for row in mine) / n, abs=1e-6)
            assert entry["score"]["accuracy"] == pytest.approx(100 * entry["accuracy"], abs=1e-4)
    assert main(arguments(files, whole)) == 0  # complete: nothing is computed, the tables are printed again
    captured = capsys.readouterr()
    assert "toy on one.jsonl: 30 questions" in captured.out and "compiled" not in captured.err
    assert main(["report", str(whole), "--out", str(whole.parent / "page.html")]) == 0


def test_a_resumed_run_ends_with_the_same_bytes(
    files: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, original, calls = tmp_path / "run", BenchmarkEvaluator.rows, []

    def rows(self, batch, prepared):
        calls.append(batch.number)
        if len(calls) in (3, 7):
            signal.raise_signal(signal.SIGTERM) if len(calls) == 3 else None
            if len(calls) == 7:
                raise RuntimeError("power cut")
        return original(self, batch, prepared)

    monkeypatch.setattr(BenchmarkEvaluator, "rows", rows)
    assert main(arguments(files, out)) == 0
    captured = capsys.readouterr()
    assert "Resume with: r2t2 eval --config" in captured.err
    assert not (out / "summary.json").exists()
    assert main(arguments(files, out)) == 2
    monkeypatch.setattr(BenchmarkEvaluator, "rows", original)
    assert main(arguments(files, out)) == 0
    for name in ("summary.json", "rows.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_out_of_memory_halves_the_batch_and_changes_no_result(
    files: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = PreparedBatch.answer

    def limited(self, name, rows):
        if len(rows) > 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
        return answer(self, name, rows)

    monkeypatch.setattr(PreparedBatch, "answer", limited)
    assert main(arguments(files, tmp_path / "run")) == 0
    captured = capsys.readouterr().err
    assert "out of memory with 4 samples at a time; continuing with 2" in captured
    assert captured.count("continuing with 1") == 1
    assert (tmp_path / "run" / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    assert (tmp_path / "run" / "rows.parquet").read_bytes() == (whole / "rows.parquet").read_bytes()

    def exhausted(self, name, rows):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(PreparedBatch, "answer", exhausted)
    assert main(arguments(files, tmp_path / "other")) == 2
    assert "a single sample does not fit in device memory" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (("--model", "none"), "unknown port 'none'"),
        (("--bank", "FOLDER/none"), "is not a bank"),
        (("--benchmark", "none"), "unknown dataset 'none'"),
        (("--benchmark", "FOLDER/one.jsonl,FOLDER/one.jsonl"), "named twice"),
        (("--benchmark", "FOLDER/references.jsonl"), "40 of 40 questions are also references in the bank"),
        (("--strategy", "base,,ngd"), "has an empty name"),
        (("--strategy", "magic"), "unknown strategy 'magic'"),
        (("--strategy", "atlas"), "no loss atlas"),
        (("--preset", "none"), "unknown preset 'none'"),
        (("--metric", "none"), "unknown metric 'none'"),
        (("--limit", "0"), "--limit 0: it must be at least 1"),
        (("--batch-size", "0"), "a batch of 0 samples"),
        (("--vmap-size", "0"), "a vmap size of 0 samples; it must be at least 1"),
        (("--embedder", "hashed_words"), "made with embedder 'toy-questions', this is embedder 'hashed_words-512@1'"),
    ],
)
def test_bad_input_is_one_line(
    more: tuple[str, ...], cause: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tuple(word.replace("FOLDER", str(files)) for word in more)
    assert main(arguments(files, tmp_path / "run", *more)) == 2
    (captured,) = capsys.readouterr().err.splitlines()[-1:]
    assert captured.startswith("r2t2: ") and re.search(re.escape(cause), captured)
    assert not (tmp_path / "run").exists()


def test_vectorized_samples_get_the_results_of_single_samples(
    files: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = {}

    def spy(function, samples, vmap_size=1):
        traced.setdefault(function.__qualname__.partition(".")[0], set()).add(vmap_size)
        return map_in_chunks(function, samples, vmap_size)

    for module in (passes, rerouting):
        monkeypatch.setattr(module, "map_in_chunks", spy)
    jax.clear_caches()  # so that programs are traced again
    assert main(arguments(files, tmp_path / "run", "--vmap-size", "3")) == 0  # of batches of four
    assert traced.pop("encode_batch") == {1, 3}  # references are encoded one by one
    assert traced == {"generate_tokens": {3}, "_reroute_samples": {3}}
    values, expected = (open_run(out).rows.to_pylist() for out in (tmp_path / "run", whole))
    for a, b in zip(values, expected, strict=True):
        assert (a["id"], a["prediction"], a["neighbors"]) == (b["id"], b["prediction"], b["neighbors"])
        np.testing.assert_allclose(a["weights"], b["weights"], atol=1e-5, rtol=0)


def test_stored_features_of_a_bank_are_read(
    files: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = write_questions(tmp_path / "references.jsonl", 40, seed=3)
    build = ["bank", "build", "--model", MODEL, "--dataset", str(references), "--features"]
    assert main([*build, "--out", str(tmp_path / "bank")]) == 0
    for file in tmp_path.glob("references*"):
        file.unlink()  # so that features cannot be computed
    assert main(arguments(files, tmp_path / "run", "--bank", str(tmp_path / "bank"))) == 0
    values, expected = (open_run(out).rows.to_pylist() for out in (tmp_path / "run", whole))
    assert values == expected


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(arguments(files, tmp_path / "run", "--dry-run")) == 0
    captured = capsys.readouterr().out
    assert "30 questions in 8 batches, metric exact_match" in captured
    assert "7 questions in 2 batches" in captured
    assert re.search(r"memory +at most \d[\d.]* [KM]?B with 4 questions at a time: parameters 8 B", captured)
    steps, k = 10, 5
    for name, evaluations in (("base", 1), ("ngd", 1 + 2 * steps * k + 1), ("kernel_regression", 2)):
        assert re.search(rf"{name} +{evaluations} ", captured)
    assert list(tmp_path.iterdir()) == []


def test_a_steering_file_adds_a_strategy_of_one_evaluation(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    steer = tmp_path / "steer.json"
    steer.write_text('{"steering": 1, "rules": [{"weigh": {"left": 1.0}}]}')
    command = arguments(files, tmp_path / "run", "--steer", str(steer), "--strategy", "base", "--preset", "toy")
    assert main([*command, "--dry-run"]) == 0
    assert re.search(r"steer +-", capsys.readouterr().out)  # not traced, as all that answer by themselves
    assert not (tmp_path / "run").exists()
    assert main(command) == 0
    capsys.readouterr()
    run = open_run(tmp_path / "run")
    rows = [row for row in run.rows.to_pylist() if row["strategy"] == "steer"]
    assert len(rows) == 37
    assert all(row["weights"] == [1, 0, 0, 1, 0, 0] for row in rows)
    words = {sample.id: int(sample.image[0, 0, 0]) for sample in make_samples(30, seed=1, hinted=0.4)}
    for row in rows[:30]:  # the word of the expert on the left
        assert row["prediction"] == ("red", "green", "blue", "black", "white")[words[row["id"]]]
    steer.write_text(steer.read_text().replace("left", "right"))
    assert main(command) == 2
    assert "steering" in capsys.readouterr().err


def test_another_run_in_the_folder_is_refused_before_a_model_is_loaded(
    files: Path, whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("r2t2_jax.plugins._load", fail)
    before = json.loads((whole / "run.json").read_text())
    for more in (("--seed", "5"), ("--seed", "5", "--dry-run")):
        assert main(arguments(files, whole, *more)) == 2
        assert "settings.seed is 0 there and 5 here" in capsys.readouterr().err
    data = ("--data", str(files / "one.jsonl"), "--out", str(whole))
    others = (
        ("tune", "--model", MODEL, *data),
        ("bank", "build", "--model", MODEL, *data),
        ("routes", "record", "--model", MODEL, *data),
        ("demo", "--out", str(whole)),
        ("reproduce", "all", "--model", "pocket", "--out", str(whole)),
    )
    for words in others:
        assert main(words) == 2
        command = " ".join(words[: 2 if words[0] in ("bank", "routes") else 1])
        error = f"r2t2: {whole} holds a run of `r2t2 eval`, not of `r2t2 {command}`. Choose another folder\n"
        assert capsys.readouterr().err == error
    assert json.loads((whole / "run.json").read_text()) == before


def test_references_under_other_ids_are_refused_unless_leakage_is_allowed(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in (files / "references.jsonl").read_text().splitlines()][:3]
    leaky = files / "leaky.jsonl"
    leaky.write_text("".join(json.dumps(line | {"id": f"other-{i}"}) + "\n" for i, line in enumerate(lines)))
    out = tmp_path / "run"
    command = [*arguments(files, out, "--batch-size", "4"), "--strategy", "base", "--benchmark", str(leaky)]
    assert main(command) == 2
    assert "3 of 3 questions are also references in the bank" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--allow-leakage"]) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["settings"]["allow_leakage"] is True
    assert run["data"][str(leaky)]["leaked"] == 3
    leaky.unlink()


def test_a_preset_restricts_layers_and_experts(files: Path, tmp_path: Path) -> None:
    """The masks of C3PO: only the last layer moves, and only the two experts of the largest weights have weight."""
    preset = {name: dict(block) for name, block in Preset.from_mapping(toy().presets["toy"]).to_mapping().items()}
    preset["space"] |= {"last_layers": 1, "core_experts": 2}
    (tmp_path / "masks.json").write_text(json.dumps({"settings": preset}))
    command = arguments(files, tmp_path / "run", "--preset", str(tmp_path / "masks.json"))
    assert main([*command, "--strategy", "ngd", "--benchmark", str(files / "two.jsonl")]) == 0
    rows = [row for row in open_run(tmp_path / "run").rows.to_pylist() if row["strategy"] == "ngd"]
    router, weights = (np.reshape([row[name] for row in rows], (7, 2, 3)) for name in ("router_weights", "weights"))
    np.testing.assert_allclose(weights[:, 0], router[:, 0], rtol=1e-5)
    assert ((weights[:, 1] > 0).sum(axis=-1) <= 2).all()
    assert np.abs(weights[:, 1] - router[:, 1]).max() > 0.1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["preset"].endswith("masks.json")


def test_answers_after_every_step_give_the_flow_of_the_report(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*arguments(files, tmp_path / "run"), "--strategy", "base,ngd", "--benchmark", str(files / "two.jsonl")]
    assert main([*command, "--answer-steps", "ngd,oracle"]) == 2
    assert "--answer-steps oracle: choose among base, ngd" in capsys.readouterr().err
    assert main([*command, "--answer-steps", "ngd"]) == 0
    (results,) = read_results(open_run(tmp_path / "run"))
    steps = results.strategies["ngd"].step_right
    assert steps.shape == (7, 11)
    np.testing.assert_array_equal(steps[:, 0], results.base.right)
    np.testing.assert_array_equal(steps[:, -1], results.strategies["ngd"].right)
    flow = flow_figure(results)
    assert [row["right"] for row in flow.rows] == steps.sum(axis=0).tolist()
