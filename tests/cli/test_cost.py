"""`r2t2 cost`: the table, its files, and what is refused."""

import json
from pathlib import Path

import pytest

from r2t2_jax.cli.main import main


def test_it_prints_a_table_and_writes_its_numbers_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, figure = tmp_path / "cost.json", tmp_path / "cost.png"
    assert main(["cost", "pocket", "--k", "2", "--steps", "3", "--out", str(out), "--figure", str(figure)]) == 0
    printed = capsys.readouterr().out
    assert "paper" not in printed
    assert max(map(len, printed.splitlines()[:-2])) <= 80
    record = json.loads(out.read_text())
    assert record["scale"]["neighbors"] == 2 and record["scale"]["steps"] == 3
    methods = {row["method"]: row for row in record["methods"]}
    assert methods["base_as_written"]["times_base"] == 1
    for row in (*record["methods"][1:], *record["ngd"]):
        assert row["times_base"] == pytest.approx(row["flops"] / methods["base_as_written"]["flops"], abs=1e-3)
        assert f"{row['flops'] / 1e6:,.1f}" in printed
    assert record["ngd"][0]["evaluations"] == 2 * 2 * 3 + 2
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_markdown_prints_only_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "pocket", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.count("|") for line in lines} == {7} and "paper" not in lines[0]  # the paper's costs are MoAI's
    assert lines[2].startswith("| base, as written | 1 |") and lines[-1].startswith("| atlas | 2 |")


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["pocket", "--k", "0"], "a cost with neighbors 0; it must be at least 1"),
        (["pocket", "--run-folder", "x"], "name one with --figure"),
        (["pocket", "--run-folder", "nowhere", "--figure", "{tmp}/a.png"], "nowhere holds no run"),
        (["pocket", "--out", "{tmp}"], "it is a folder; name a file"),
        (["nowhere"], "unknown model with shapes 'nowhere'; known: "),
        (["moai:8x7b"], "8x7b"),
        (["moai:7b,plora=half"], "moai has no setting 'plora=half'"),
        (["tests.toy_shapes:shapes"], "toy has no cost functions"),
    ],
)
def test_bad_input_gives_one_line(
    options: list[str], cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cost", *(option.format(tmp=tmp_path) for option in options)]) == 2
    captured = capsys.readouterr()
    assert cause in captured.err and captured.err.count("\n") == 1
