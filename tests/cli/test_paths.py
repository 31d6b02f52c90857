"""Every argument that is a path: relative and absolute, with spaces, brackets, other letters, a backslash."""

import dataclasses
import json
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
from r2t2_jax.methods import find_preset
from r2t2_jax.plugins import load
from r2t2_jax.runs.reading import open_run
from tests.datasets.official import OFFICIAL
from tests.evaluation.toy_files import MODEL, write_questions
from tests.ports.moai import checkpoint as moai
from tests.ports.mova import checkpoint as mova
from tests.toy_port import make_samples, toy

NAME = "a [1] größe\\x {2}"
SETTINGS = {"neighborhood": {"k": 2}, "descent": {"steps": 2}}


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_the_commands_of_banks_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(NAME) if relative else tmp_path / NAME
    folder.mkdir()
    references = write_questions(folder / "references.jsonl", 20, seed=3)
    write_questions(folder / "one.jsonl", 4, seed=1)
    write_questions(folder / "two.jsonl", 3, seed=2)
    bank, run, preset = folder / "bank", folder / "runs" / "eval", folder / "preset.json"
    preset.write_text(json.dumps({"settings": SETTINGS}))
    image = folder / "one image.png"
    Image.fromarray(np.zeros((1, 4, 3), np.uint8)).save(image)
    questions = ["eval", "--model", MODEL, "--benchmark", f"{folder / 'one.jsonl'},{folder / 'two.jsonl'}"]
    answer = [
        "answer",
        "--model",
        MODEL,
        "--image",
        str(image),
        "--question",
        "left",
        "--strategy",
        "kernel_regression",
    ]
    words = [
        ["bank", "build", "--model", MODEL, "--dataset", str(references), "--out", str(bank), "--batch-size", "10"],
        ["bank", "inspect", str(bank), "--verify", "--html", str(folder / "bank.html")],
        ["bank", "index", str(bank), "--kind", "exact"],
        [
            *questions,
            "--bank",
            str(bank),
            "--strategy",
            "kernel_regression",
            "--preset",
            str(preset),
            "--out",
            str(run),
        ],
        ["eval", "--config", str(run / "run.json"), "--out", str(run)],
        ["results", str(run), "--format", "latex"],
        ["export", str(run), "--lmms-eval", str(folder / "logs")],
        ["score", str(run), "--metric", "exact_match", "--out", str(folder / "scored")],
        ["report", str(run), "--out", str(folder / "report.html")],
        [
            *answer,
            "--strategy",
            "kernel_regression",
            "--bank",
            str(bank),
            "--preset",
            str(preset),
            "--html",
            str(folder / "answer.html"),
        ],
    ]
    for command in words:
        assert main(command) in (0, None), command
    assert len(ReferenceBank.open(bank)) == 20 and len(open_run(run).rows) == 14
    for name in ("bank.html", "report.html", "answer.html", "scored", "logs"):
        assert (folder / name).exists(), name
    assert [path.name for path in tmp_path.iterdir()] == [NAME]  # nothing was written elsewhere


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_the_commands_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(NAME) if relative else tmp_path / NAME
    OFFICIAL["gqa"](folder / "files")
    files, data = str(folder / "files"), str(folder / "data")
    split = ["--manual-dir", files, "--split", "testdev"]
    assert main(["datasets", "prepare", "gqa", *split, "--data-dir", data]) in (0, None)
    assert main(["datasets", "list", "--data-dir", data]) in (0, None)
    monkeypatch.setenv("R2T2_DATA", data)
    for more in ([], split):
        out = folder / f"page{len(more)}.html"
        assert main(["datasets", "show", "gqa", "--n", "1", "--out", str(out), *more]) in (0, None)
        assert "Is it overcast?" in out.read_text(encoding="utf-8")
    assert main(["pocket", "scene", "--out", str(folder / "scenes" / "a.png")]) in (0, None)
    assert (folder / "scenes" / "a.png").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_the_commands_that_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(NAME) if relative else tmp_path / NAME
    folder.mkdir()
    (folder / "preset.json").write_text(json.dumps({"settings": SETTINGS}))
    entry = {"question": "Where?", "image_path": "a.png", "ground_truth": "left", "model_answer": "left"}
    entries = [entry | {"id": i, "is_correct": True, "weights": {"left": 0.25, "right": 0.75}} for i in range(2)]
    (folder / "released.json").write_text(json.dumps(entries))
    references = write_questions(folder / "references.jsonl", 20, seed=3, hinted=1.0)
    questions = write_questions(folder / "questions.jsonl", 20, seed=1)
    bank, preset = str(folder / "bank"), str(folder / "preset.json")
    model = ["--model", MODEL, "--preset", preset]
    few = ["--space", "simplex", "--optimizer", "sgd", "--learning-rate", "0.1", "--k", "2", "--kernel", "linear"]
    words = [
        ["bank", "build", "--model", MODEL, "--dataset", str(references), "--out", bank],
        [
            "bank",
            "import",
            str(folder / "released.json"),
            "--out",
            str(folder / "released"),
            "--embedder",
            "hashed_words",
        ],
        ["bank", "atlas", bank, "--model", MODEL, "--points", "2", "--candidates", "0", "--choosing", "4", "--k", "1"],
        ["tune", *model, "--data", str(questions), "--bank", bank, "--out", str(folder / "tune"), *few],
        ["tune", "--config", str(folder / "tune" / "run.json"), "--out", str(folder / "tune")],
        ["diagnose", *model, "--data", str(questions), "--bank", bank, "--out", str(folder / "diagnosis.json")],
    ]
    for command in words:
        assert main(command) in (0, 1, None), command
    assert len(ReferenceBank.open(folder / "released")) == 2 and ReferenceBank.open(bank).atlas is not None
    assert find_preset(str(folder / "tune" / "preset.json")).neighborhood.k == 2
    assert json.loads((folder / "diagnosis.json").read_text())["n"] == 20
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


class Reader:
    """An auxiliary model that finds no text."""

    fingerprint = "reader"

    def __call__(self, image: np.ndarray, record: AuxRecord) -> AuxRecord:
        return dataclasses.replace(record, lines=())


def add_records(folder: Path) -> Path:
    """A store of auxiliary records, built and imported by the commands."""
    (folder / "images").mkdir()
    questions = write_questions(folder / "images" / "set.jsonl", 2, seed=1).rename(folder / "set.jsonl")
    (folder / "graphs.jsonl").write_text(json.dumps({"id": "1-0", "objects": ["person"], "relations": []}))
    data = ["--dataset", str(questions), "--images", str(folder / "images"), "--out", str(folder / "aux")]
    assert main(["aux", "build", *data, "--models", "ocr"]) in (0, None)
    assert main(["aux", "import", *data, "--scene-graphs", str(folder / "graphs.jsonl")]) in (0, None)
    return folder / "aux"


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_the_commands_of_auxiliary_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(build.PROVIDERS, "ocr", lambda size: Reader())
    folder = Path(NAME) if relative else tmp_path / NAME
    folder.mkdir()
    records = CachedRecords.open(add_records(folder))
    assert sorted(row["scene"] is not None for row in records.rows.values()) == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.slow
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(build.PROVIDERS, "ocr", lambda size: Reader())
    folder = Path(NAME) if relative else tmp_path / NAME
    (folder / "tokenizer").mkdir(parents=True)
    moai.write_checkpoint(folder / "moai source")
    mova.write_checkpoint(folder / "mova source")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "mova source" / name).rename(folder / "tokenizer" / name)
    vocabulary = (folder / "mova source" / "vocab.txt").rename(folder / "words.txt")
    side_files = ["--tokenizer", str(folder / "tokenizer"), "--vocab", str(vocabulary)]
    for name, options in (("moai", []), ("mova", side_files)):
        words = ["convert", name, str(folder / f"{name} source"), str(folder / name), "--quiet", *options]
        assert main(words) in (0, None)
    port = load(f"{folder / 'moai'},aux={add_records(folder)}")
    assert len(port.processor.auxiliary.rows) == 2
    assert load(str(folder / "mova")).name == f"mova:{folder / 'mova'}"
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.slow
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_the_commands_of_whole_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    def load_dataset(name: str, split: str, n: int | None = None, seed: int = 0) -> list:
        return make_samples(n or 40, seed=seed + 100 * (split == "reference"), hinted=0.4)

    folder = Path(NAME) if relative else tmp_path / NAME
    monkeypatch.chdir(tmp_path)
    folder.mkdir()
    references = write_questions(folder / "references.jsonl", 40, seed=3)
    questions, bank = write_questions(folder / "questions.jsonl", 6, seed=1), str(folder / "bank")
    assert main(["bank", "build", "--model", MODEL, "--dataset", str(references), "--out", bank]) == 0
    (folder / "embedders").mkdir()
    table = ["reproduce", "table11", "--model", MODEL, "--data", str(questions), "--bank", bank, "--samples", "6"]
    assert main([*table, "--embedders", str(folder / "embedders"), "--out", str(folder / "table")]) in (0, None)
    assert (folder / "table" / "table6.md").exists()
    settings = {"space.kind": "simplex", "neighborhood.k": 3, "mode.k": 5}
    monkeypatch.setattr(r2t2_jax.datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(
        r2t2_jax.plugins, "load", lambda name: dataclasses.replace(toy(), name=name, presets={"pocket": settings})
    )
    assert main(["demo", "--quick", "--samples", "20", "--out", str(folder / "demo")]) == 0
    assert main(["demo", "--config", str(folder / "demo" / "run.json"), "--out", str(folder / "demo")]) == 0
    assert (folder / "demo" / "report.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
