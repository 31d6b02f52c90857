"""`--config FILE`: the settings of a saved run are used, and options on the command line override them."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2t2_jax.cli.parsing import parse
from r2t2_jax.errors import R2T2Error


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
