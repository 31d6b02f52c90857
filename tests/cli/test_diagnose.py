"""`r2t2 diagnose` on the toy port: what it prints, writes and exits with, and what it refuses."""

import json
from pathlib import Path

import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.evaluation import setup as opening
from tests.toy_port import make_samples, toy

HINTED = {"narrow": 0.1, "fine": 1.0}  # share of samples that hint at the right expert


@pytest.fixture(autouse=True)
def toy_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, split: str, n: int | None = None, seed: int = 0):
        return make_samples(n or 90, seed=seed + 100 * (split == "reference"), hinted=HINTED.get(name, 0.6))

    monkeypatch.setattr(opening, "load", lambda _: toy())
    monkeypatch.setattr(opening, "load_dataset", load_dataset)
    monkeypatch.setattr(opening, "registered", lambda _: ["toy"])


def test_the_exit_code_follows_the_verdict_and_the_file_holds_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "numbers" / "diagnosis.json"
    assert main(["diagnose", "--model", "toy", "--data", "narrow", "--limit", "60", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("toy on narrow: 60 questions, ")
    assert "Verdict: Re-routing helps this model." in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    record = json.loads(out.read_text())
    assert record["verdict"] == "helps" and record["n"] == 60 and record["settings"]["data"] == "narrow"
    assert record["preset"]["space"]["kind"] == "simplex"  # the preset of the port, which has the same name
    assert f"{100 * record['rows']['ngd']['mean']:.1f}" in printed

    assert main(["diagnose", "--model", "toy", "--data", "fine", "--limit", "60"]) == 1
    assert "Verdict: The router is fine." in capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["diagnose", "--model", "toy", "--data", "narrow", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


def test_what_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "too few for a diagnosis; give at least 20" in refused(capsys, "--limit", "5")
    assert "unknown preset 'spicy'; choose one of paper, c3po, simplex, logit, toy, or a file" in refused(
        capsys, "--preset", "spicy"
    )
    assert "unknown metric 'taste'" in refused(capsys, "--metric", "taste")
    assert "toy has no beam search: leave out --beams 3" in refused(capsys, "--beams", "3")
    assert "it is a folder; name a file" in refused(capsys, "--out", str(tmp_path))
    assert "cannot read preset" in refused(capsys, "--preset", str(tmp_path / "none.json"))


def test_a_question_that_is_a_reference_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(opening, "load_dataset", lambda *_: make_samples(60, seed=100, hinted=1.0))
    assert "60 of 60 questions are also references in the bank, first '100-0': choose other questions" in refused(
        capsys
    )


@pytest.mark.slow
def test_references_are_diagnosed_if_leakage_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "load_dataset", lambda *_: make_samples(60, seed=100, hinted=1.0))
    out = tmp_path / "diagnosis.json"
    allowed = ["diagnose", "--model", "toy", "--data", "fine", "--allow-leakage", "--out", str(out)]
    assert main(allowed) == 1
    assert json.loads(out.read_text())["settings"]["allow_leakage"] is True


def test_without_a_bank_a_registered_set_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(opening, "registered", lambda _: ["pocket"])
    assert "no set of references is registered for toy: give a bank" in refused(capsys)
