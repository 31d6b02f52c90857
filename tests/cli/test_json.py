"""`--json` of every command: exactly one JSON document on standard output, also with `--dry-run`."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from r2t2_jax import plugins
from r2t2_jax.cli.main import COMMANDS, main
from tests.bank.test_importing import entries
from tests.datasets.official import easy_vqa
from tests.evaluation.toy_files import MODEL, arguments
from tests.routes.test_compare import record, sample
from tests.routes.test_exchange import IDS, npy, vllm

NO_RESULT = {"completion", "serve"}  # a script, and a server
Words = Callable[[Path, Path, Path], list[str]]  # of a command, from folders of questions, of a run, and to write to


def recordings(out: Path) -> list[str]:
    """Two recordings whose tokens choose other experts."""
    first = record(out / "first", [sample(f"s{i}", [(0, 1)] * 4) for i in range(6)], kinds={"text": 24})
    second = record(out / "second", [sample(f"s{i}", [(2, 3)] * 4) for i in range(6)], kinds={"text": 24})
    return [str(first), str(second)]


def expert_map(out: Path) -> str:
    """A map of two sources, which choose other experts."""
    samples = [sample(f"s{i}", [(0, 1) if i % 2 else (2, 3)] * 4, source=f"set {i % 2}") for i in range(8)]
    recording = record(out / "mixed", samples, kinds={"text": 32})
    assert main(["experts", "map", str(recording), "--permutations", "20", "--out", str(out / "map"), "-q"]) == 0
    return str(out / "map")


def responses(out: Path) -> str:
    """A response of vLLM with expert ids."""
    (out / "responses.jsonl").write_text(json.dumps(vllm(npy(IDS.astype("<i4")))) + "\n")
    return str(out / "responses.jsonl")


def imported(out: Path) -> str:
    """A recording of all tokens, without weights."""
    folder = out / "imported"
    assert main(["routes", "import", "--format", "vllm", responses(out), "--out", str(folder), "-q"]) == 0
    return str(folder)


def official(out: Path) -> str:
    """The official files of a set."""
    easy_vqa(out / "official")
    return str(out / "official")


def questions(files: Path) -> list[str]:
    return ["--model", MODEL, "--data", str(files / "one.jsonl")]


QUICK: dict[str, Words] = {
    "aux build": lambda files, run, out: ["--data", str(files / "one.jsonl"), "--out", str(out / "aux")],
    "aux import": lambda files, run, out: [
        *("--data", str(files / "one.jsonl"), "--scene-graphs", str(files / "one.jsonl"), "--out", str(out / "aux"))
    ],
    "bank build": lambda files, run, out: [*questions(files), "--out", str(out / "bank"), "--dry-run"],
    "bank atlas": lambda files, run, out: [str(files / "bank"), "--model", MODEL, "--dry-run"],
    "bank import": lambda files, run, out: [released(out), "--embedder", "hashed_words", "--out", str(out / "bank")],
    "bank index": lambda files, run, out: [released_bank(out)],
    "bank inspect": lambda files, run, out: [str(files / "bank")],
    "check": lambda files, run, out: [MODEL, "--data", str(files / "one.jsonl")],
    "convert": lambda files, run, out: ["minilm", "source", str(out / "model")],
    "datasets list": lambda files, run, out: [],
    "datasets prepare": lambda files, run, out: ["easy_vqa", "--manual-dir", official(out)],
    "datasets show": lambda files, run, out: [str(files / "one.jsonl"), "--out", str(out / "page.html")],
    "eval": lambda files, run, out: arguments(files, run)[1:],  # a complete run: its summary
    "experts compare": lambda files, run, out: [*recordings(out), "--permutations", "20"],
    "experts map": lambda files, run, out: [expert_map_source(out), "--permutations", "20", "--out", str(out / "m")],
    "experts mask": lambda files, run, out: [*recordings(out), "--count", "1", "--out", str(out / "mask.json")],
    "experts steer": lambda files, run, out: [
        *("--map-folder", expert_map(out), "--task", "set 0", "--out", str(out / "steer.json"))
    ],
    "export": lambda files, run, out: [str(run), "--lmms-eval", str(out / "logs")],
    "metrics": lambda files, run, out: [],
    "models": lambda files, run, out: [],
    "pocket scene": lambda files, run, out: ["--out", str(out / "scene.png")],
    "results": lambda files, run, out: [str(run)],
    "routes export": lambda files, run, out: [imported(out), "--format", "vllm", "--out", str(out / "exported.jsonl")],
    "routes import": lambda files, run, out: [responses(out), "--format", "vllm", "--out", str(out / "routes")],
    "routes show": lambda files, run, out: [imported(out)],
    "score": lambda files, run, out: [str(run), "--metric", "exact_match"],
    "strategies": lambda files, run, out: [],
}
SLOW: dict[str, Words] = {
    "answer": lambda files, run, out: [
        *("--model", "pocket:narrow", "--image", scene(out), "--question", "what color is the circle ?")
    ],
    "bank atlas": lambda files, run, out: [str(bank_copy(files, out)), "--model", MODEL, "--points", "4"],
    "bank build": lambda files, run, out: [*questions(files), "--out", str(out / "bank")],
    "cost": lambda files, run, out: ["pocket"],
    "demo": lambda files, run, out: ["--quick", "--limit", "4", "--out", str(out / "demo")],
    "diagnose": lambda files, run, out: [*questions(files), "--bank", str(files / "bank")],
    "eval": lambda files, run, out: [*arguments(files, out / "run")[1:], "--dry-run"],
    "fit": lambda files, run, out: ["--model", "pocket", "--memory", "1GB"],
    "report": lambda files, run, out: [str(run), "--out", str(out / "page.html")],
    "reproduce": lambda files, run, out: ["table2", "--model", "pocket", "--dry-run", "--out", str(out / "tables")],
    "routes record": lambda files, run, out: [*questions(files), "--out", str(out / "routes")],
    "tune": lambda files, run, out: [
        *questions(files), "--bank", str(files / "bank"), "--budget", "2", "--out", str(out / "tune")
    ],
}  # fmt: skip


def expert_map_source(out: Path) -> str:
    expert_map(out)
    return str(out / "mixed")


def released(out: Path) -> str:
    """A file of references in the format of the authors."""
    (out / "references.json").write_text(json.dumps(entries(8)))
    return str(out / "references.json")


def released_bank(out: Path) -> str:
    words = ["bank", "import", released(out), "--embedder", "hashed_words", "--out", str(out / "released")]
    assert main([*words, "-q"]) == 0
    return str(out / "released")


def scene(out: Path) -> str:
    assert main(["pocket", "scene", "--out", str(out / "scene.png")]) == 0
    return str(out / "scene.png")


def bank_copy(files: Path, out: Path) -> Path:
    return Path(shutil.copytree(files / "bank", out / "copy"))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to write to. Auxiliary models and checkpoints are replaced by their results."""
    monkeypatch.setenv("R2T2_DATA", str(tmp_path / "data"))
    known = plugins.find
    model = {"report": {"mapped": 3, "ignored": ["buffer"]}, "parameters": ["a", "b"], "dtype": ["float32"]}
    replaced = {
        "moai": lambda *arguments: {"added": 2, "images": 2, "scene graphs": 2},
        "minilm": SimpleNamespace(convert=lambda *arguments, **options: model),
    }

    def find(group: str, name: str, kind: str) -> object:
        is_replaced = name in replaced and group in ("r2t2.auxiliary", plugins.CONVERTERS)
        return replaced[name] if is_replaced else known(group, name, kind)

    monkeypatch.setattr(plugins, "find", find)
    return tmp_path


def check(command: str, words: Words, files: Path, run: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = words(files, run, out)
    capsys.readouterr()
    code = main([*command.split(), *line, "--json", "-q"])
    captured = capsys.readouterr()
    assert code in (0, 1), captured.err
    assert captured.err == ""
    assert isinstance(json.loads(captured.out), dict | list)


@pytest.mark.parametrize("command", QUICK)
def test_a_command_prints_one_document(
    command: str, files: Path, whole: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(command, QUICK[command], files, whole, out, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_a_command_that_computes_prints_one_document(
    command: str, files: Path, whole: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(command, SLOW[command], files, whole, out, capsys)


def test_every_command_with_a_result_has_the_option() -> None:
    options = {name: {field.name for field in dataclasses.fields(command)} for name, command in COMMANDS.items()}
    having = {name for name, fields in options.items() if "json" in fields}
    assert having == set(COMMANDS) - NO_RESULT == {*QUICK, *SLOW}
