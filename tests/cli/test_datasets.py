"""`r2t2 datasets`: list, prepare and show on a tiny set."""

import re
from pathlib import Path

import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.datasets.catalog import DATASETS
from tests.datasets.official import easy_vqa, png, put


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R2T2_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def test_files_are_prepared_listed_and_shown(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    easy_vqa(tmp_path / "files")
    assert main(["datasets", "prepare", "easy_vqa", "--manual-dir", str(tmp_path / "files")]) == 0
    out = capsys.readouterr().out
    assert f"easy_vqa test: 3 questions: {data}" in out
    assert "easy_vqa train: missing: expected the questions file" in out
    assert main(["datasets", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in DATASETS) and re.search(r"easy_vqa.*test \(3\)", listed)
    assert main(["datasets", "show", "easy_vqa", "--n", "2"]) == 0
    assert "Wrote easy_vqa.html." in capsys.readouterr().out
    page = (tmp_path / "easy_vqa.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 2 and "License: MIT" in page and "http" not in page.split("<main>")[1]


def test_a_prepared_subset_can_be_shown(tmp_path: Path, data: Path) -> None:
    easy_vqa(tmp_path / "files")
    prepare = ["datasets", "prepare", "easy_vqa", "--manual-dir", str(tmp_path / "files"), "--split", "test"]
    assert main([*prepare, "--n", "2"]) == 0
    assert main(["datasets", "show", "easy_vqa", "--n", "1"]) == 0
    assert (tmp_path / "easy_vqa.html").read_text(encoding="utf-8").count("<figure>") == 1


def test_list_shows_licenses_and_files(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "list", "--files"]) == 0
    out = capsys.readouterr().out
    assert "CC BY-NC-SA 4.0" in out and "problems.json" in out


def test_invalid_records_can_be_skipped_and_prepared_sets_are_kept(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    easy_vqa(tmp_path / "files")
    (tmp_path / "files/test/images/1.png").unlink()
    arguments = ["datasets", "prepare", "easy_vqa", "--manual-dir", str(tmp_path / "files"), "--split", "test"]
    assert main(arguments) == 2
    assert "1.png: it does not exist (--skip-bad skips such records)" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("skipped: ") and "easy_vqa test: 2 questions, 1 skipped" in out
    assert main([*arguments, "--skip-bad"]) == 0
    assert "was prepared before; remove that folder to prepare it again" in capsys.readouterr().out


def test_pocket_and_unprepared_files_can_be_shown_with_escaped_text(tmp_path: Path, data: Path) -> None:
    assert main(["datasets", "show", "pocket", "--split", "test", "--n", "2", "--out", "sub/pocket.html"]) == 0
    assert (tmp_path / "sub/pocket.html").read_text(encoding="utf-8").count("<figure>") == 2
    put(tmp_path / "files/test/questions.json", [["<b>is it & red?</b>", "yes", 0]])
    put(tmp_path / "files/test/images/0.png", png())
    assert main(["datasets", "show", "easy_vqa", "--manual-dir", str(tmp_path / "files")]) == 0
    page = (tmp_path / "easy_vqa.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;is it &amp; red?&lt;/b&gt;" in page and "<b>" not in page


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["prepare", "imagenet", "--manual-dir", "."], "unknown dataset 'imagenet'; known: vqav2"),
        (["prepare", "easy_vqa", "--manual-dir", ".", "--n", "0"], "must be at least 1"),
        (["prepare", "easy_vqa", "--manual-dir", ".", "--seed", "-1"], "the seed must not be negative"),
        (["show", "easy_vqa"], "easy_vqa is not prepared in"),
        (["show", "easy_vqa", "--n", "0"], "must be at least 1"),
        (["show", "nothing"], "unknown dataset 'nothing'; known: pocket, vqav2"),
        (["show", "pocket", "--split", "test", "--n", "1", "--out", "/proc/no/page.html"], "cannot write"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], cause: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["datasets", *arguments]) == 2
    error = capsys.readouterr().err
    assert cause in error and error.count("\n") == 1
