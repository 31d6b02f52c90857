"""Every argument that is a path: relative and absolute, with spaces, brackets, other letters, a backslash."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.cli.main import main
from r2t2_jax.runs.reading import open_run
from tests.datasets.official import OFFICIAL
from tests.evaluation.toy_files import MODEL, write_questions

NAME = "a [1] größe\\x {2}"


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_the_commands_of_banks_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(NAME) if relative else tmp_path / NAME
    folder.mkdir()
    references = write_questions(folder / "references.jsonl", 20, seed=3)
    write_questions(folder / "one.jsonl", 4, seed=1)
    write_questions(folder / "two.jsonl", 3, seed=2)
    bank, run, preset = folder / "bank", folder / "runs" / "eval", folder / "preset.json"
    preset.write_text(json.dumps({"settings": {"neighborhood": {"k": 2}, "descent": {"steps": 2}}}))
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
