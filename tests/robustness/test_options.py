"""Every option of every command with bad values of its type: exit code 2, one line, no new files, no model loaded."""

import dataclasses
import json
import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image

from r2t2_jax import plugins
from r2t2_jax.cli.main import COMMANDS, main
from r2t2_jax.cli.options import RANGES, Range, flag
from r2t2_jax.cli.parsing import CLUSTER

MODEL = ["--model", "tests.toy_port:toy"]
RUN = [*MODEL, "--out", "run"]
REQUIRED = {  # the shortest command line of each command
    "demo": ["--out", "run"],
    "answer": [*MODEL, "--image", "image.png", "--question", "what color ?"],
    "aux build": ["--data", "questions.jsonl", "--out", "aux"],
    "aux import": ["--scene-graphs", "scene_graphs.jsonl", "--data", "questions.jsonl", "--out", "aux"],
    "bank atlas": ["bank", *MODEL],
    "bank build": [*RUN, "--data", "questions.jsonl"],
    "bank import": ["references.json", "--out", "bank"],
    "bank index": ["bank"],
    "bank inspect": ["bank"],
    "check": ["tests.toy_port:toy"],
    "completion": ["bash"],
    "convert": ["minilm", "source", "model"],
    "cost": ["pocket"],
    "datasets list": [],
    "datasets prepare": ["easy_vqa", "--manual-dir", "official"],
    "datasets show": ["questions.jsonl"],
    "diagnose": [*MODEL, "--data", "questions.jsonl"],
    "eval": [*RUN, "--data", "questions.jsonl"],
    "experts compare": ["recording", "other"],
    "experts map": ["recording", "--out", "map"],
    "experts mask": ["recording", "other", "--out", "mask.json"],
    "experts steer": ["--map-folder", "map", "--task", "size", "--out", "steer.json"],
    "export": ["run", "--lmms-eval", "logs"],
    "fit": ["--model", "pocket", "--memory", "1GB"],
    "metrics": [],
    "models": [],
    "pocket scene": [],
    "report": ["run"],
    "reproduce": ["table2", *RUN],
    "results": ["run"],
    "routes export": ["recording", "--format", "vllm", "--out", "exported.jsonl"],
    "routes import": ["file", "--format", "vllm", "--out", "recording"],
    "routes record": [*RUN, "--data", "questions.jsonl"],
    "routes show": ["recording", "sample"],
    "serve": MODEL,
    "score": ["run", "--metric", "exact_match"],
    "strategies": [],
    "tune": [*RUN, "--data", "questions.jsonl"],
}
TEXTS = ["abc", "", "1,5", "0x1", "--1", "1e", "1 2", "١٢x"]  # no numbers, and a second value where one is wanted
PATHS = ["", "file/below", "n" * 300, "a\0b", "\udcff", "folder", "file/", "pipe/x", "file/../file/x", "./file/x/y"]
NAMES = ["", "a\0b", "\udcff", "\0", "\0a", "a\0", "\ud800", "a\udfffb", "\udc80x", "\udcff\0"]


def bad_values(name: str, kind: Any) -> Iterator[str]:
    """Ten bad values of an option or more."""
    text = str(kind)
    if name in RANGES and kind is not str:
        values: Range = RANGES[name]
        yield str(int(values.low) - 1)
        yield str(values.high * 10) if "float" in text else str(10**30)
        yield from ["nan", "inf"] if "float" in text else ["nan", "1.5"]
        yield from [word for word in TEXTS if not ("tuple" in text and word == "1,5")][:6]  # which is two values there
    elif kind is bool:
        yield from [f"={value}" for value in ("x", "2", "yes", "ja", "0", "None", "[]", "--", "TRUE!", "no")]
    elif "Literal" in text or typing.get_origin(kind) is Literal:
        yield from ["", "nope", "0", "-1", "None", "[]", "a b", "\0", "é", "'"]
    elif "Path" in text and name in ("out", "html", "figure", "lmms_eval", "destination"):
        yield from PATHS
    elif "Path" in text:
        yield from [*NAMES, "n" * 300, "file/below"]
    else:
        yield from NAMES


def options() -> list[tuple[str, str, Any]]:
    """Command, field and type of every option."""
    return [
        (command, field.name, typing.get_type_hints(COMMANDS[command])[field.name])
        for command in COMMANDS
        for field in dataclasses.fields(COMMANDS[command])
        if field.name != CLUSTER
    ]


def _refuse(*arguments: object, **options: object) -> None:
    raise RuntimeError("a model was loaded")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file, a folder with a file, and a pipe; a model that is loaded fails the test."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    question = {"id": "a", "image": "image.png", "question": "what color ?", "answer": "red"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question) + "\n")
    (tmp_path / "scene_graphs.jsonl").write_text(json.dumps({"id": "a", "objects": [], "relations": []}) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "load", _refuse)
    return tmp_path


def command_line(command: str, name: str, value: str) -> list[str]:
    """The shortest command line with an option of the given value; values like `=x` are appended to the option."""
    words = list(REQUIRED[command])
    hints = typing.get_type_hints(COMMANDS[command], include_extras=True)
    if "Positional" in str(hints[name]) or "_Positional" in str(hints[name]):
        positional = [field for field in hints if "Positional" in str(hints[field])]
        words[positional.index(name)] = value
    elif flag(name) in words:
        words[words.index(flag(name)) + 1] = value
    else:
        words += [f"{flag(name)}{value}"] if value.startswith("=") else [flag(name), value]
    return [*command.split(), *words]


def outcome(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code and lines on standard error."""
    capsys.readouterr()
    try:
        code: Any = main(words)
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err.splitlines()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def check(command: str, values: slice, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, problems = files(work), []
    for name, kind in [(name, kind) for each, name, kind in options() if each == command]:
        for value in list(bad_values(name, kind))[values]:
            words = command_line(command, name, value)
            code, lines = outcome(words, capsys)
            unexpected = any("unexpected" in line and "R2T2_DEBUG" in line for line in lines)
            if code != 2 or len(lines) != 1 or not lines[0].startswith("r2t2: ") or unexpected:
                problems.append((name, value[:20], code, lines))
            if files(work) != before:
                problems.append((name, value[:20], "new files", sorted(set(files(work)) - set(before))))
    assert not problems, "\n".join(map(str, problems))


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_values_are_refused_before_any_work(command: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(command, slice(3), work, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_ten_bad_values_of_every_option_are_refused(
    command: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(command, slice(None), work, capsys)


def test_every_number_has_a_range_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        numbers = [name for each, name, kind in options() if each == command and {"int", "float"} & set(_words(kind))]
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        text = " ".join(capsys.readouterr().out.split())
        for name in numbers:
            entry = text.rsplit(f" {flag(name)} ", 1)[1][:300]
            assert f"({RANGES[name]}" in entry, (command, name)


def _words(kind: Any) -> list[str]:
    return re.findall(r"\w+", str(kind))


@pytest.mark.parametrize("word", ["--sample", "--quik", "--unknown", "extra"])
def test_an_unknown_option_is_named_with_a_hint(word: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = outcome(["demo", "--out", "run", word], capsys)
    assert code == 2 and len(lines) == 1
    assert word in lines[0] and "r2t2 demo --help" in lines[0]
    assert ("did you mean" in lines[0]) == (word in ("--sample", "--quik"))


def test_required_options_are_named_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(["eval"], capsys) == (
        2,
        ["r2t2: --model, --data, --out must be given; r2t2 eval --help lists the options"],
    )
