"""Every command of docs/quickstart.md runs and prints the text that the page shows."""

import re
import shlex
from pathlib import Path

import pytest

from r2t2_jax.cli.main import COMMANDS, main
from r2t2_jax.cli.parsing import parse

PAGE = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n\$ r2t2 ([^\n]*)\n(.*?)```", PAGE, re.DOTALL)
LONG = ("demo", "report")  # commands on a whole run


def as_pattern(shown: str) -> re.Pattern[str]:
    """A pattern of the printed text, in which `...` matches any text."""
    lines = [re.escape(" ".join(line.split())).replace(r"\.\.\.", "(?s:.*)") for line in shown.splitlines()]
    return re.compile(r"\s*".join(lines) + r"\s*")


def run(typed: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command in this process; a page that shows `r2t2: ...` shows an error."""
    code = main(shlex.split(typed))
    printed = capsys.readouterr()
    assert code == (2 if shown.startswith("r2t2: ") else 0)
    # Progress bars go to the error stream too, each ended by a carriage return.
    text = printed.err.rpartition("\r")[2] if code else re.sub(r"Preset .*\n(.*compilation\.)?", "...\n", printed.out)
    text = "\n".join(" ".join(line.split()) for line in text.splitlines())
    assert as_pattern(shown).fullmatch(text), f"{typed!r} printed\n{text}"


def test_every_command_line_parses() -> None:
    assert len(BLOCKS) == PAGE.count("```console") == 7
    for typed, _ in BLOCKS:
        parse(COMMANDS, shlex.split(typed))


@pytest.mark.slow
def test_the_session_with_single_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for typed, shown in BLOCKS:
        if typed.split()[0] not in LONG:
            run(typed, shown, capsys)
    assert "<title>pocket:narrow: what pattern is on the circle ?</title>" in (tmp_path / "answer.html").read_text()
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code
    exec(code[1], {})
    printed = capsys.readouterr().out.splitlines()
    assert printed == re.findall(r"print\(.*\)  # (.*?)(?:: .*)?\n", code[1])


@pytest.mark.slow
def test_the_demonstration_and_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for typed, shown in BLOCKS:
        if typed.split()[0] in LONG:
            run(typed, shown, capsys)
    assert (tmp_path / "out" / "page.html").read_bytes() == (tmp_path / "out" / "demo" / "report.html").read_bytes()
