"""`--config FILE`: the settings of a saved run are used, and options on the command line override them."""

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2t2_jax.cli import main
from r2t2_jax.cli.parsing import command_settings, parse
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.folder import resume_command


@dataclass(frozen=True)
class Build:
    """Build.

    Example: r2t2 bank build --out x
    """

    out: Path
    """Where."""
    kind: Literal["near", "far"] = "near"
    k: int | None = None
    rate: float = 0.1
    quick: bool = False
    names: tuple[str, ...] = ()

    def run(self) -> None: ...


COMMANDS = {"bank build": Build}


def read(*arguments: str):
    return parse(COMMANDS, ["bank", "build", *arguments])


def saved(folder: Path, content: object) -> str:
    path = folder / "run.json"
    path.write_text(json.dumps(content, default=str))
    return str(path)


BUILDS = st.builds(
    Build,
    out=st.sampled_from([Path("x"), Path("a b/c"), Path("/tmp/x")]),
    kind=st.sampled_from(["near", "far"]),
    k=st.none() | st.integers(0, 9),
    rate=st.floats(0, 1e6) | st.floats(-1, 0),
    quick=st.booleans(),
    names=st.lists(st.sampled_from(["a", "b c", "d=e"]), max_size=3).map(tuple),
)


@given(BUILDS)
def test_settings_are_read_back_unchanged(tmp_path_factory: pytest.TempPathFactory, command: Build) -> None:
    path = saved(tmp_path_factory.mktemp("run"), {"command": "bank build", "settings": dataclasses.asdict(command)})
    assert read("--config", path) == read(f"--config={path}") == command


def test_typed_options_override_the_file(tmp_path: Path) -> None:
    settings = {"out": "x", "kind": "far", "k": 5, "quick": True, "names": ["a", "b"]}
    path = saved(tmp_path, {"settings": settings})
    typed = ["--kind", "near", "--no-quick", "--names", "c", "--k", "None"]
    for arguments in (["--config", path, *typed], [*typed, "--config", path]):
        assert read(*arguments) == Build(Path("x"), "near", None, 0.1, False, ("c",))


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for content, match in (
        ({"command": "demo", "settings": {}}, "belongs to `r2t2 demo`, this is `r2t2 bank build`"),
        (
            {"command": "bank build", "settings": {"steps": 5}},
            "sets steps; the options of `r2t2 bank build` are k, kind, names",
        ),
        ({"seed": 5}, "has no settings"),
        ([1], "has no settings"),
    ):
        with pytest.raises(R2T2Error, match=match):
            read("--config", saved(tmp_path, content))
    (tmp_path / "run.json").write_text("{")
    for arguments in (["--config", str(tmp_path / "run.json")], ["--config", str(tmp_path / "none.json")]):
        with pytest.raises(R2T2Error, match=r"^--config: "):
            read(*arguments)
    with pytest.raises(R2T2Error, match="--config needs a file"):
        read("--out", "x", "--config")


def test_wrong_values_name_the_allowed_ones(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = saved(tmp_path, {"settings": {"out": "x", "kind": "middle"}})
    for arguments in (["--out", "x", "--kind", "middle"], ["--config", path]):
        with pytest.raises(SystemExit) as stop:
            read(*arguments)
        assert stop.value.code == 2
        text = capsys.readouterr().err
        assert "middle" in text and "near" in text and "far" in text


RUNS = {  # command lines of the commands that resume with `--config`
    "demo": "--limit 4",
    "eval": "--model m --data a.jsonl b.jsonl --strategy base,ngd",
    "bank build": "--model m --data pocket",
    "tune": "--model m --data pocket",
    "reproduce": "table6 --model pocket:narrow --data pocket",
    "routes record": "--model m --data a,b",
    "routes import": "responses.jsonl --format vllm",
    "aux build": "--data q.jsonl",
}


@pytest.mark.parametrize("name", RUNS)
def test_the_printed_command_resumes_a_run(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    folder.mkdir()
    began = parse(main.COMMANDS, [*name.split(), *RUNS[name].split(), "--out", str(folder)])
    saved(folder, {"command": name, "settings": command_settings(began)})
    assert parse(main.COMMANDS, shlex.split(resume_command(name, folder))[1:]) == began


def test_a_typed_argument_takes_the_place_of_the_saved_one(tmp_path: Path) -> None:
    settings = {"table": "table6", "model": "m", "data": ["a", "b"]}
    config = ["--config", saved(tmp_path, {"command": "reproduce", "settings": settings})]
    for words in ([*config, "table7"], ["table7", *config], [*config, "--out", "x", "table7"]):
        assert parse(main.COMMANDS, ["reproduce", "--out", "y", *words]).table == "table7"
    command = parse(main.COMMANDS, ["reproduce", "--data", "c", "d", *config, "--out", "x"])
    assert (command.table, command.data) == ("table6", ("c", "d"))
