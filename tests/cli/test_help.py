"""Help of `r2t2`: readable at 80 columns, an example for every command, shell completion."""

import itertools
import re
import shlex
import shutil
import subprocess

import pytest

from r2t2_jax.cli.main import COMMANDS, main
from r2t2_jax.cli.parsing import parse


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == code
    text = captured.err if code else captured.out
    assert max(map(len, text.splitlines())) <= 80
    return text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_readable_and_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *name.split(), "--help")
    assert text.startswith(f"usage: r2t2 {name} [-h]")
    (example,) = re.findall(r"\n\nExample: (.*?)\n\n", text, re.DOTALL)
    assert f"r2t2 {name}" in example
    assert all(line.endswith(" \\") for line in example.splitlines()[:-1])  # it can be pasted
    assert not re.search(r"default:\s*(''|\))|\[\[|\bSTR\b", text)
    assert "--config FILE" in text
    assert "None" not in text
    assert text == printed(capsys, *name.split(), "-h")


def test_all_commands_are_listed_with_one_sentence_each(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--help")
    for name in COMMANDS:
        assert f"\n  {name} " in text
    assert "\nBegin with: r2t2 demo --out out/demo\n" in text
    assert text == printed(capsys, code=2)  # without a command: the same text, as an error


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_can_be_pasted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *name.split(), "--help")
    (example,) = re.findall(r"\n\nExample: (.*?)\n\n", text, re.DOTALL)
    words = shlex.split(example.replace("\\\n", ""))
    commands = [list(group) for end, group in itertools.groupby(words, lambda word: word == "&&") if not end]
    for command in commands:
        assert command[0] == "r2t2" and parse(COMMANDS, command[1:])


@pytest.mark.parametrize("group", sorted({name.split()[0] for name in COMMANDS if " " in name}))
def test_a_group_lists_its_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, group, "--help")
    members = {name for name in COMMANDS if name.startswith(f"{group} ")}
    assert {line[2:].split("  ")[0] for line in text.splitlines() if line.startswith(f"  {group} ")} == members
    assert text == printed(capsys, group, code=2)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["dmo", "--out", "x"], "unknown command 'dmo'; did you mean 'demo'? commands: "),
        (["xyzzy"], "unknown command 'xyzzy'; commands: "),
        (["datasets", "lst"], "unknown command 'datasets lst'; did you mean 'list'? commands: list, "),
        (["--out", "x", "demo"], "a command must come before the option --out; commands: "),
    ],
)
def test_unknown_commands_name_the_known_ones(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"r2t2: {line}")
    assert captured.out == ""
    known = {name.split()[-1 if arguments[0] == "datasets" else 0] for name in COMMANDS}
    assert set(captured.err.split("commands: ")[1].strip().split(", ")) <= known


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--version").splitlines()
    assert [line.split()[0] for line in lines] == ["r2t2", "jax", "devices:"]
    assert re.match(r"r2t2 0\.", lines[0]) and re.search(r"\d+ x \w+", lines[2])


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered"), [("r2t2 dem", "demo"), ("r2t2 datasets li", "list"), ("r2t2 demo --lim", "--limit")]
)
def test_bash_completes_commands_and_options(
    typed: str, offered: str, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    with pytest.raises(SystemExit):
        main(["--tyro-print-completion", "bash"])
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    words = typed.split()
    script = (
        f"source {tmp_path / 'completion'}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
        '_tyro_r2t2; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == [offered]
