"""The examples of docs/own_model.md run, and their output is the page's."""

import re
import sys
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


def test_the_port_of_the_page_passes_its_checks_and_is_rerouted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("sums.py").write_text(block("port: sums.py"), encoding="utf-8")
    exec(block("questions: make_questions.py"), {})
    try:
        outputs = []
        for line in block("commands").splitlines():
            assert main(line.split()[1:]) == 0
            outputs.append(capsys.readouterr().out)
        assert outputs[0].startswith(block("check output"))
        assert outputs[0].splitlines()[-1] == "sums: all checks passed"
    finally:
        del sys.modules["sums"]
