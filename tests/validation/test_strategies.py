"""Strategies are checked against questions, bank and model before a model is loaded or an answer computed."""

from dataclasses import replace
from pathlib import Path

import pytest

from r2t2_jax import plugins
from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation import setup
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import METHODS, method_of
from r2t2_jax.metrics import get_metric
from r2t2_jax.validation.strategies import check_neighbors, check_strategies
from tests.evaluation.toy_files import MODEL, write_questions
from tests.toy_port import ToyModel, make_samples, toy

ATLAS = ("atlas", "atlas_argmin", "atlas_taylor", "atlas_mlp", "best_fixed", "atlas_top8")


def check(*names: str, **known: object) -> None:
    check_strategies({name: method_of(name) for name in names}, **known)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bank():
    return collect_bank(toy(), make_samples(12, seed=0, hinted=0.5), get_metric("exact_match"), keep_wrong=True)


@pytest.mark.parametrize("name", ATLAS)
def test_a_bank_without_an_atlas_names_the_command_that_builds_it(name: str, bank, tmp_path: Path) -> None:
    saved = replace(bank, origin=tmp_path / "bank")
    with pytest.raises(R2T2Error, match=f"{name} reads .*r2t2 bank atlas {tmp_path}/bank --model pocket:narrow"):
        check("base", "ngd", name, bank=saved, model="pocket:narrow")
    with pytest.raises(R2T2Error, match="name the bank with --bank"):
        check(name, port=toy())  # it has no atlas of its own
    check(name, port=replace(toy(), atlas=tmp_path))
    check(name)  # nothing is known


def test_no_other_strategy_reads_the_atlas(bank) -> None:
    check(*(name for name in METHODS if name not in ATLAS), bank=bank)


def test_questions_must_have_what_a_strategy_reads() -> None:
    samples = make_samples(3, 0, hinted=0.5)
    check("task_routing", "oracle", samples=[replace(sample, experts=("a",)) for sample in samples])
    with pytest.raises(R2T2Error, match=f"task_routing needs the task routing .* {samples[0].id!r} does not name"):
        check("ngd", "task_routing", samples=[replace(sample, experts=()) for sample in samples])
    with pytest.raises(R2T2Error, match="oracle reads the test samples' answers"):
        check("oracle", samples=[replace(samples[0], answers=())])
    with pytest.raises(R2T2Error, match="oracle_permuted reads the test samples' answers"):
        check("oracle_permuted", samples=[replace(samples[0], answers=())])


class LossOnly:
    """A model with a loss and nothing else."""

    spec = ToyModel.spec


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("tent", "needs a model with"),
        ("best_of_n", "needs a model that generates"),
        ("gate_finetuned", "path of its gate"),
        ("knn_moe", "no `gate_input`"),
        ("warmup", "no prompts for images"),
    ],
)
def test_the_model_must_have_what_a_strategy_calls(name: str, match: str) -> None:
    port = replace(toy(), model=LossOnly(), gate="", captioning=None)
    with pytest.raises(R2T2Error, match=match):
        check("base", name, port=port)


def test_a_bank_has_as_many_references_as_a_strategy_reads(bank) -> None:
    correct = int(bank.right.sum())
    preset = Preset.from_mapping({"neighborhood": {"k": correct + 1}})
    check_neighbors({"ngd": method_of("ngd", Preset.from_mapping({"neighborhood": {"k": correct}}))}, bank)
    with pytest.raises(R2T2Error, match=f"ngd reads k={correct + 1} neighbors from a bank of {correct} references"):
        check_neighbors({"base": method_of("base"), "ngd": method_of("ngd", preset)}, bank)


def test_the_commands_refuse_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    references = write_questions(tmp_path / "references.jsonl", 20, seed=3)
    questions = write_questions(tmp_path / "questions.jsonl", 4, seed=1)
    folder, out = str(tmp_path / "bank"), str(tmp_path / "run")
    assert main(["bank", "build", "--model", MODEL, "--data", str(references), "--out", folder]) == 0

    def refuse(*arguments: object) -> None:
        raise RuntimeError("a model was loaded")

    monkeypatch.setattr(plugins, "load", refuse)
    monkeypatch.setattr(setup, "load", refuse)
    monkeypatch.setattr(setup, "load_on", refuse)
    data = ["--model", MODEL, "--bank", folder, "--data", str(questions)]
    for words, match in (
        (["eval", *data, "--out", out, "--strategy", "base,ngd,atlas"], f"`r2t2 bank atlas {folder} --model {MODEL}`"),
        (["eval", *data, "--out", out, "--strategy", "task_routing"], "does not name the experts"),
        (["eval", *data, "--out", out, "--strategy", "base,atlass"], "unknown strategy 'atlass'"),
        (["tune", *data, "--out", out, "--strategy", "atlas"], f"`r2t2 bank atlas {folder} --model {MODEL}`"),
        (["answer", *data[:4], "--question", "left", "--strategy", "atlas"], "atlas reads the bank's loss atlas"),
    ):
        capsys.readouterr()
        assert main(words) == 2
        line = capsys.readouterr().err
        assert match in line and line.count("\n") == 1
        assert not (tmp_path / "run").exists()
