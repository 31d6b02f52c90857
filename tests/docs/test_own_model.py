"""The examples of docs/own_model.md run, and their output is the page's."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from r2t2_jax.cli.main import main

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "own_model.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    match = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert match, f"docs/own_model.md has no block marked {marker!r}"
    return match[1]


@pytest.mark.slow  # trains four experts, and compiles three presets
def test_a_function_is_rerouted_with_the_preset_that_is_chosen() -> None:
    names: dict[str, Any] = {}
    exec(block("function"), names)
    accuracy = names["accuracy"]
    assert accuracy["base"] < accuracy["paper"] < accuracy["auto"] - 0.3
    assert accuracy["atlas"] > accuracy["paper"] + 0.3


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The page's commands, in a folder with the page's files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("sums.py").write_text(block("port: sums.py"), encoding="utf-8")
    exec(block("questions: make_questions.py"), {})
    yield [line.split()[1:] for line in block("commands").splitlines()]
    del sys.modules["sums"]


def test_the_port_of_the_page_passes_its_checks(commands: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(commands[0]) == 0
    out = capsys.readouterr().out
    assert out.startswith(block("check output"))
    assert out.splitlines()[-1] == "sums: all checks passed"


@pytest.mark.slow  # builds a bank and evaluates
def test_the_port_of_the_page_is_rerouted(commands: list[list[str]]) -> None:
    for words in commands:
        assert main(words) == 0
    (numbers,) = json.loads(Path("out/eval/summary.json").read_text(encoding="utf-8"))["models"].values()
    assert numbers["strategies"]["ngd"]["accuracy"] > numbers["strategies"]["base"]["accuracy"] + 0.3
