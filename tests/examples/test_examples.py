"""The examples: each re-routes better than its router."""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "write_a_port.md").read_text(encoding="utf-8")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_model_in_plain_jax_numpy() -> None:
    losses = load("plain_jnp").mean_losses()
    assert losses["ngd"] < 0.01 * losses["router"]


@pytest.mark.slow
def test_a_classifier_with_gates_per_token() -> None:
    accuracies = load("nnx_token_gates").accuracies()
    assert accuracies["ngd"] > accuracies["router"] + 0.5


@pytest.mark.slow
def test_shared_experts_and_a_choice_of_experts() -> None:
    losses = load("shared_experts").mean_losses()
    assert losses["chosen experts"] < 0.01 * losses["router"]
    assert losses["all experts"] < 0.1 * losses["router"]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, in a folder in which it has written its checkpoint and questions."""
    monkeypatch.chdir(tmp_path)
    example = load("hf_checkpoint")
    example.write_checkpoint(Path("out/countries"))
    example.write_questions(Path("out/countries"))
    return example


def commands(marker: str) -> list[list[str]]:
    """The r2t2 commands of a block of docs/write_a_port.md."""
    block = re.search(rf"<!-- {marker} -->\n```\n(.*?)```", PAGE, re.DOTALL)
    assert block
    lines = block[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("r2t2 ")]


def test_the_port_of_a_checkpoint_passes_its_checks(checkpoint: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = commands("checkpoint")
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "countries: all checks passed"


def test_a_folder_that_is_no_checkpoint_is_refused(checkpoint: ModuleType) -> None:
    with pytest.raises(R2T2Error, match="name the folder"):
        checkpoint.load()
    for name, content in (("config.json", "{}"), ("vocab.json", "{"), ("model.safetensors", "no tensors")):
        checkpoint.write_checkpoint(Path("damaged"))
        Path("damaged", name).write_text(content, encoding="utf-8")
        with pytest.raises(R2T2Error, match="damaged is no checkpoint of this model"):
            checkpoint.load("damaged")


def test_a_word_beyond_the_vocabulary_is_named(checkpoint: ModuleType) -> None:
    processor = checkpoint.load("out/countries").processor
    assert processor.decode(processor.answer_ids(["paris"])[:, None]) == ["paris"]
    with pytest.raises(R2T2Error, match="has no 'atlantis'"):
        processor.answer_ids(["Atlantis"])


@pytest.mark.slow
def test_the_checkpoint_is_evaluated_as_its_page_says(
    checkpoint: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands("evaluation"):
        assert main(words) == 0
    assert "Verdict: Re-routing helps this model." in capsys.readouterr().out
    assert Path("out/countries_eval/report.html").is_file()
    summary = json.loads(Path("out/countries_eval/summary.json").read_text(encoding="utf-8"))
    ((_, numbers),) = summary["models"].items()
    for name, row in numbers["strategies"].items():
        low, high = (f"{100 * bound:.1f}" for bound in row["ci95"])
        share = re.search(rf"^\| `{name}`[^|]*\| (.*?) %", PAGE, re.MULTILINE)
        assert share and share[1] == f"{100 * row['accuracy']:.1f}", f"{name}: {row['accuracy']} ({low} to {high})"
        assert f"{share[1]} % ({low} to {high})" in PAGE
