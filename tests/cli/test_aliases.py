"""Other names of options, lists with commas and blanks, and the settings of runs of earlier versions."""

import json
from pathlib import Path

import pytest

from r2t2_jax.cli.aliases import ALIASES, parser_words
from r2t2_jax.cli.main import COMMANDS, main
from r2t2_jax.cli.parsing import parse
from r2t2_jax.runs.fingerprint import check_fingerprint, current_settings, fingerprinted

EVAL = ["eval", "--model", "pocket", "--out", "run"]
NAMES = [
    (command, option, alias)
    for command, kind in COMMANDS.items()
    for option in ALIASES
    for alias in ALIASES[option]
    if option in kind.__dataclass_fields__ and alias not in kind.__dataclass_fields__
]
VALUES = {
    "map_folder": ["map"],
    "strength": ["0.5"],
    "data": ["a", "b"],
    "against": ["a"],
    "limit": ["7"],
    "out": ["folder"],
}
NEEDED = {  # besides the option under test
    "aux build": ["--data", "a", "--out", "x"],
    "aux import": ["--data", "a", "--out", "x", "--scene-graphs", "x"],
    "bank build": ["--model", "m", "--data", "a", "--out", "x"],
    "bank import": ["file", "--out", "x"],
    "bank inspect": ["bank"],
    "check": ["m"],
    "cost": ["pocket"],
    "datasets prepare": ["gqa", "--manual-dir", "x"],
    "datasets show": ["gqa"],
    "demo": ["--out", "x"],
    "diagnose": ["--model", "m", "--data", "a"],
    "eval": ["--model", "m", "--data", "a", "--out", "x"],
    "experts compare": ["first", "second"],
    "experts map": ["recording", "--out", "x"],
    "experts mask": ["wanted", "unwanted", "--out", "x"],
    "experts steer": ["--map_folder", "map", "--task", "size", "--out", "x"],
    "fit": ["--model", "m", "--memory", "1GB"],
    "report": ["run"],
    "reproduce": ["table6", "--model", "m", "--out", "x"],
    "routes export": ["recording", "--format", "vllm", "--out", "x"],
    "routes import": ["file", "--format", "vllm", "--out", "x"],
    "routes record": ["--model", "m", "--data", "a", "--out", "x"],
    "score": ["run", "--metric", "vqa"],
    "tune": ["--model", "m", "--data", "a", "--out", "x"],
}


def without(words: list[str], option: str) -> list[str]:
    """The words without an option and its value."""
    if f"--{option}" not in words:
        return words
    position = words.index(f"--{option}")
    return words[:position] + words[position + 2 :]


@pytest.mark.parametrize(("command", "option", "alias"), NAMES)
def test_an_option_has_the_same_names_in_every_command(command: str, option: str, alias: str) -> None:
    words = without(NEEDED.get(command, []), option)
    for name in (f"--{alias}", f"--{alias.replace('_', '-')}"):
        typed = parse(COMMANDS, [*command.split(), *words, name, *VALUES[option]])
        assert typed == parse(COMMANDS, [*command.split(), *words, f"--{option}", *VALUES[option]])


@pytest.mark.parametrize(
    "typed",
    [
        ["a,b,c"],
        ["a", "b", "c"],
        ["a,b", "c"],
        ["a,", "b,", "c"],
        ["a", ",b", ",", "c"],
        ["a, b ,c"],
        ["a", "--seed=0", "--data=a,b,c"],
    ],
)
def test_lists_take_commas_and_blanks(typed: list[str]) -> None:
    assert parse(COMMANDS, [*EVAL, "--data", *typed]).data == ("a", "b", "c")  # type: ignore[attr-defined]
    strategies = [word.replace("--data", "--strategy") for word in typed]
    command = parse(COMMANDS, [*EVAL, "--data", "set", "--strategy", *strategies])
    assert command.strategy == "a,b,c"  # type: ignore[attr-defined]


def test_a_file_with_a_comma_in_its_name_is_one_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a,b.jsonl").touch()
    words = parser_words("eval", COMMANDS["eval"], ["--tasks", "a,b.jsonl,c", "a,b.jsonl"])
    assert words == ["--data", "a", "b.jsonl", "c", "a,b.jsonl"]


def test_numbers_take_commas_too() -> None:
    tune = ["tune", "--model", "m", "--data", "a", "--out", "x", "--k", "5,10", "--learning-rate", "0.1", "0.3"]
    command = parse(COMMANDS, tune)
    assert (command.k, command.learning_rate) == ((5, 10), (0.1, 0.3))  # type: ignore[attr-defined]


def test_options_of_lm_eval_are_taken() -> None:
    words = ["eval", "--model", "m", "--tasks", "a,b", "--output_path", "x", "--batch_size", "4", "--log_samples"]
    command = parse(COMMANDS, [*words, "--limit", "8"])
    assert command == parse(
        COMMANDS, ["eval", "--model", "m", "--data", "a", "b", "--out", "x", "--batch-size", "4", "--limit", "8"]
    )


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([*EVAL, "--data", "a,,b"], "'a,,b' has an empty name; separate names by single commas or blanks"),
        ([*EVAL, "--data", ",a"], "',a' has an empty name"),
        ([*EVAL, "--tasks", "a,"], "--tasks 'a,' has an empty name"),
        ([*EVAL, "--data"], "--data needs a value"),
        ([*EVAL, "--data", "--limit", "3"], "--data needs a value"),
        ([*EVAL, "--data", "a", "--tasks", "b"], "--data and --tasks are names of one option"),
        ([*EVAL, "--data", "a", "--limit", "3", "--samples", "4"], "--limit and --samples are names of one option"),
        ([*EVAL, "--taks", "a"], "unknown option --taks; did you mean --tasks?"),
        ([*EVAL, "--data", "a", "--model_args", "pretrained=x"], "options of a model follow its name"),
        ([*EVAL, "--data", "a", "--log_samples=yes"], "--log_samples takes no value"),
        (["cost", "pocket", "--log_samples"], "unknown option --log_samples"),
        (["bank", "build", "--model", "m", "--data", "a", "--out", "x", "--keep", "correct"], "pass --only-correct"),
        (["bank", "build", "--model", "m", "--data", "a", "--out", "x", "--keep=all"], "without --only-correct"),
    ],
)
def test_wrong_names_and_lists_are_refused_in_one_line(
    words: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(words)
    except SystemExit as stop:
        code = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1
    assert match in lines[0]


FORMER = [
    ("demo", {"quick": True, "samples": 5}, {"quick": True, "limit": 5}),
    ("reproduce", {"table": "all", "samples": 5}, {"table": "all", "limit": 5}),
    ("eval", {"benchmark": "a,b.jsonl", "limit": 5}, {"data": ["a", "b.jsonl"], "limit": 5}),
    ("aux build", {"dataset": ["a"], "samples": 3}, {"data": ["a"], "limit": 3}),
    (
        "bank build",
        {"dataset": ["a"], "samples": 9, "limit": 5, "keep": "correct"},
        {"data": ["a"], "limit": 9, "keep": 5, "only_correct": True},
    ),
    (
        "bank build",
        {"dataset": ["a"], "limit": 5000, "keep": "all"},
        {"data": ["a"], "keep": 5000, "only_correct": False},
    ),
]


@pytest.mark.parametrize(("command", "former", "now"), FORMER)
def test_settings_of_earlier_versions_have_the_names_of_today(command: str, former: dict, now: dict) -> None:
    assert current_settings(command, former) == now
    assert current_settings(command, now) == now
    saved = fingerprinted({"command": command, "settings": former, "plan": []})
    check_fingerprint(saved, fingerprinted({"command": command, "settings": now, "plan": []}), "run")  # no difference


def test_a_file_of_settings_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    former = {"model": "m", "dataset": ["a", "b"], "samples": 9, "limit": 5, "keep": "correct", "out": "x"}
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"command": "bank build", "settings": former}))
    words = ["--model", "m", "--data", "a", "b", "--limit", "9", "--keep", "5", "--only-correct", "--out", "x"]
    build = parse(COMMANDS, ["bank", "build", "--config", str(path)])
    assert build == parse(COMMANDS, ["bank", "build", *words])
