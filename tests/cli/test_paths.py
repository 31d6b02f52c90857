"""Every argument that is a path: relative and absolute, with spaces, brackets, other letters, a backslash."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import r2t2_jax.datasets
import r2t2_jax.plugins
from ports.moai.auxiliary import build
from ports.moai.auxiliary.record import AuxRecord, CachedRecords
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.cli.main import main
from r2t2_jax.contract import Sample
from r2t2_jax.methods import find_preset
from r2t2_jax.plugins import load, load_embedder
from r2t2_jax.runs.reading import open_run
from tests.datasets.official import OFFICIAL
from tests.evaluation.toy_files import MODEL, write_questions
from tests.ports.common.embedder_folders import write_minilm
from tests.ports.moai import checkpoint as moai
from tests.ports.mova import checkpoint as mova
from tests.toy_port import make_samples, toy

NAME = "a [1] größe\\x {2}"
SETTINGS = {"neighborhood": {"k": 2}, "descent": {"steps": 2}}


@pytest.fixture(params=["relative", "absolute"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of an odd name in the current folder, in which nothing else is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    yield Path(NAME) if request.param == "relative" else tmp_path / NAME
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def run(command: str, *words: str | Path) -> None:
    """Run a command; the words behind it are options and paths."""
    assert main([*command.split(), *map(str, words)]) in (0, None), (command, words)


def test_the_commands_of_banks_and_runs(folder: Path) -> None:
    references = write_questions(folder / "references.jsonl", 20, seed=3)
    one, two = write_questions(folder / "one.jsonl", 4, seed=1), write_questions(folder / "two.jsonl", 3, seed=2)
    bank, saved, preset = folder / "bank", folder / "runs" / "eval", folder / "preset.json"
    preset.write_text(json.dumps({"settings": SETTINGS}))
    image = folder / "one image.png"
    Image.fromarray(np.zeros((1, 4, 3), np.uint8)).save(image)
    entry = {"question": "Where?", "image_path": "a.png", "ground_truth": "left", "model_answer": "left"}
    entries = [entry | {"id": i, "is_correct": True, "weights": {"left": 0.25, "right": 0.75}} for i in range(2)]
    (folder / "released.json").write_text(json.dumps(entries))
    with_bank = ["--strategy", "kernel_regression", "--bank", bank, "--preset", preset]
    run(f"bank build --model {MODEL} --batch-size 10", "--data", references, "--out", bank)
    run("bank inspect", bank, "--verify", "--html", folder / "bank.html", "--against", one)
    run("bank index --kind exact", bank)
    run("bank import --embedder hashed_words", folder / "released.json", "--out", folder / "released")
    run(f"eval --model {MODEL}", "--data", f"{one},{two}", "--out", saved, *with_bank)
    run("eval", "--config", saved / "run.json", "--out", saved)
    run("results --format latex", saved)
    run("export", saved, "--lmms-eval", folder / "logs")
    run("score --metric exact_match", saved, "--out", folder / "scored")
    run("report", saved, "--out", folder / "report.html")
    html = ["--html", folder / "answer.html"]
    run(f"answer --model {MODEL} --question left", "--image", image, *with_bank, *html)
    assert len(ReferenceBank.open(bank)) == 20 and len(open_run(saved).rows) == 14
    assert len(ReferenceBank.open(folder / "released")) == 2
    for name in ("bank.html", "report.html", "answer.html", "scored", "logs"):
        assert (folder / name).exists(), name


def test_the_commands_of_datasets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, data = folder / "files", folder / "data"
    OFFICIAL["gqa"](files)
    split = ["--manual-dir", files, "--split", "testdev"]
    run("datasets prepare gqa", *split, "--data-dir", data)
    run("datasets list", "--data-dir", data)
    monkeypatch.setenv("R2T2_DATA", str(data))
    for more in ([], split):
        out = folder / f"page{len(more)}.html"
        run("datasets show gqa --n 1", "--out", out, *more)
        assert "Is it overcast?" in out.read_text(encoding="utf-8")
    run("pocket scene", "--out", folder / "scenes" / "a.png")
    assert (folder / "scenes" / "a.png").is_file()


class Reader:
    """An auxiliary model that finds no text."""

    fingerprint = "reader"

    def __call__(self, image: np.ndarray, record: AuxRecord) -> AuxRecord:
        return dataclasses.replace(record, lines=())


@pytest.fixture
def records(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of auxiliary records, built and imported by the commands."""
    monkeypatch.setitem(build.PROVIDERS, "ocr", lambda size: Reader())
    (folder / "images").mkdir()
    questions = write_questions(folder / "images" / "set.jsonl", 2, seed=1).rename(folder / "set.jsonl")
    (folder / "graphs.jsonl").write_text(json.dumps({"id": "1-0", "objects": ["person"], "relations": []}))
    data = ["--data", questions, "--images", folder / "images", "--out", folder / "aux"]
    run("aux build --models ocr", *data)
    run("aux import", *data, "--scene-graphs", folder / "graphs.jsonl")
    return folder / "aux"


def test_the_commands_of_auxiliary_records(records: Path) -> None:
    rows = CachedRecords.open(records).rows.values()
    assert sorted(row["scene"] is not None for row in rows) == [False, True]


@pytest.mark.slow
def test_the_commands_that_measure(folder: Path) -> None:
    references = write_questions(folder / "references.jsonl", 20, seed=3, hinted=1.0)
    questions = write_questions(folder / "questions.jsonl", 20, seed=1)
    bank, preset, tuned = folder / "bank", folder / "preset.json", folder / "tune"
    preset.write_text(json.dumps({"settings": SETTINGS}))
    measured = ["--data", questions, "--bank", bank, "--preset", preset]
    few = "--space simplex --optimizer sgd --learning-rate 0.1 --k 2 --kernel linear"
    run(f"bank build --model {MODEL}", "--data", references, "--out", bank)
    run(f"bank atlas --model {MODEL} --points 2 --candidates 0 --choosing 4 --k 1", bank)
    run(f"tune --model {MODEL} {few}", *measured, "--out", tuned)
    run("tune", "--config", tuned / "run.json", "--out", tuned)
    assert main(["diagnose", "--model", MODEL, *map(str, measured), "--out", str(folder / "diagnosis.json")]) in (0, 1)
    assert ReferenceBank.open(bank).atlas is not None
    assert find_preset(str(tuned / "preset.json")).neighborhood.k == 2
    assert json.loads((folder / "diagnosis.json").read_text())["n"] == 20


@pytest.mark.slow
def test_conversions(folder: Path, records: Path) -> None:
    (folder / "tokenizer").mkdir()
    moai.write_checkpoint(folder / "moai source")
    mova.write_checkpoint(folder / "mova source")
    write_minilm(folder / "minilm source")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "mova source" / name).rename(folder / "tokenizer" / name)
    vocabulary = (folder / "mova source" / "vocab.txt").rename(folder / "words.txt")
    side_files = {"mova": ["--tokenizer", folder / "tokenizer", "--vocab", vocabulary]}
    for name in ("moai", "mova", "minilm"):
        run(f"convert {name} --quiet", folder / f"{name} source", folder / name, *side_files.get(name, ()))
    port = load(f"{folder / 'moai'},aux={records}")
    assert len(port.processor.auxiliary.rows) == 2
    assert load(str(folder / "mova")).name == f"mova:{folder / 'mova'}"
    for name in (f"minilm:{folder / 'minilm'}", str(folder / "minilm"), f"minilm:{folder / 'minilm source'}"):
        assert load_embedder(name).embed(["a question"]).shape[0] == 1


@pytest.mark.slow
def test_the_commands_of_whole_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, split: str, n: int | None = None, seed: int = 0) -> list[Sample]:
        return make_samples(n or 40, seed=seed + 100 * (split == "reference"), hinted=0.4)

    references, bank = write_questions(folder / "references.jsonl", 40, seed=3), folder / "bank"
    questions = write_questions(folder / "questions.jsonl", 6, seed=1)
    (folder / "routing.json").write_text("[0.5, 0.25, 0.25]")
    (folder / "embedders").mkdir()
    by_hand = ["--image", folder / "questions-1-0.png", "--routing", f"@{folder / 'routing.json'}"]
    table = ["--data", questions, "--bank", bank, "--embedders", folder / "embedders", "--out", folder / "table"]
    run(f"bank build --model {MODEL}", "--data", references, "--out", bank)
    run(f"answer --model {MODEL} --question left", *by_hand)
    run("cost pocket --points 2", "--figure", folder / "cost.png", "--out", folder / "cost.json")
    run("fit --model tests.toy_shapes:shapes --memory 60KB", "--out", folder / "fit.json")
    run(f"reproduce table11 --model {MODEL} --limit 6", *table)
    settings = {"space.kind": "simplex", "neighborhood.k": 3, "mode.k": 5}
    monkeypatch.setattr(r2t2_jax.datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(
        r2t2_jax.plugins, "load", lambda name: dataclasses.replace(toy(), name=name, presets={"pocket": settings})
    )
    run("demo --quick --limit 20", "--out", folder / "demo")
    run("demo", "--config", folder / "demo" / "run.json", "--out", folder / "demo")
    for name in ("cost.png", "cost.json", "fit.json", "table/table6.md", "demo/report.html"):
        assert (folder / name).exists(), name
