"""`r2t2 tune` on the toy port: it writes a preset that every command accepts, and refuses test questions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from r2t2_jax.bank.build_atlas import AtlasPlan, build_atlas
from r2t2_jax.cli.main import main
from r2t2_jax.evaluation import setup
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import find_preset
from r2t2_jax.metrics import get_metric
from tests.toy_port import make_samples, toy

FEW = ["--space", "simplex", "--optimizer", "adam", "--learning-rate", "1e-6", "0.5", "--k", "2", "--kernel", "linear"]


@pytest.fixture(autouse=True)
def toy_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, split: str, n: int | None = None, seed: int = 0):
        return make_samples(n or 40, seed=seed + 100 * (split == "reference"), hinted=0.3)

    monkeypatch.setattr(setup, "load", lambda _: toy())
    monkeypatch.setattr(setup, "load_dataset", load_dataset)
    monkeypatch.setattr(setup, "registered", lambda _: ["toy"])


def tune(out: Path, *options: str) -> int:
    few = [] if "atlas" in options else FEW  # settings of NGD
    return main(["tune", "--model", "toy", "--data", "toy", "--limit", "40", "--out", str(out), *few, *options])


def test_it_writes_a_preset_with_its_evidence_and_computes_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tune"
    assert tune(out) == 0
    printed = capsys.readouterr().out
    assert "2 settings: few enough to measure all on all 40 questions." in printed
    assert (
        "Chosen: space.kind simplex, descent.optimizer adam, descent.learning_rate 0.5, neighborhood.k 2, "
        "neighborhood.kernel linear" in " ".join(printed.split())
    )
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Chosen: space.kind simplex" in page and page.count('<th scope="row">') == 2
    capsys.readouterr()
    written = json.loads((out / "preset.json").read_text())
    assert written["name"] == "toy"
    preset = find_preset(str(out / "preset.json"))
    assert preset == Preset.from_mapping(written["settings"])
    assert (preset.descent.learning_rate, preset.neighborhood.k, preset.neighborhood.kernel, preset.space.kind) == (
        0.5,
        2,
        "linear",
        "simplex",
    )
    evidence = written["evidence"]
    assert (evidence["n"], evidence["data"], evidence["seed"], len(evidence["table"])) == (40, "toy", 0, 2)
    assert "jax" in evidence["versions"]

    summary = (out / "summary.json").read_bytes()
    assert tune(out) == 0
    assert capsys.readouterr().out == printed
    assert main(["tune", "--config", str(out / "run.json"), "--out", str(out)]) == 0
    assert (out / "summary.json").read_bytes() == summary
    assert tune(out, "--seed", "1") == 2
    assert "holds a run with other settings: settings.seed is 0 there and 1 here" in capsys.readouterr().err


def test_the_atlas_is_tuned_over_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = toy()
    bank = collect_bank(port, make_samples(40, seed=100, hinted=0.3), get_metric("exact_match"), keep_wrong=True)
    build_atlas(port.model, port.params, bank, tmp_path / "atlas", AtlasPlan(points=4, drawn=2, k=3, batch=40))
    monkeypatch.setattr(setup, "load", lambda _: replace(port, atlas=tmp_path / "atlas"))
    out, losses = tmp_path / "tune", ["--atlas-loss", "bounded", "cross_entropy"]
    few = ["--strategy", "atlas", "--atlas-k", "3", "--atlas-proximal-weight", "0", *losses]
    assert tune(out, *few) == 0
    table = json.loads((out / "preset.json").read_text())["evidence"]["table"]
    tried = {(row["atlas.loss"], row["atlas.temperature"]) for row in table}
    assert len(tried) == 4 + 4
    printed = capsys.readouterr().out
    assert "atlas." in " ".join(printed.split())
    assert main(["tune", "--config", str(out / "run.json"), "--out", str(out)]) == 0  # the saved temperatures are None
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--split", "test"], "must not be chosen on test questions"),
        (["--budget", "soon"], "neither a number of settings"),
        (["--k", "0"], "--k 0: it must be at least 1"),
        (["--k", "500"], "k=500 neighbors from a bank of"),
        (["--learning-rate", "-1"], "must not be negative"),
        (["--beams", "3"], "toy has no beam search: leave out --beams 3"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0: it must be at least 1"),
        (
            ["--strategy", "atlas", "--atlas-k", "3"],
            "comes with no loss atlas; build a bank and its atlas with `r2t2 bank build`",
        ),
    ],
)
def test_errors_leave_no_folder(
    options: list[str], cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(tmp_path / "tune", *options) == 2
    assert cause in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_references_are_refused_unless_leakage_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = make_samples(40, seed=100, hinted=0.3)
    under_other_ids = [replace(sample, id=f"other-{i}") for i, sample in enumerate(samples)]
    sets = {"reference": samples, "validation": under_other_ids}
    monkeypatch.setattr(setup, "load_dataset", lambda name, split, *_: sets[split])
    assert tune(tmp_path / "tune") == 2
    assert "questions are also references in the bank, first 'other-" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    decoding = ["--allow-leakage", "--max-new-tokens", "1"]
    assert tune(tmp_path / "tune", *decoding) == 0
    settings = json.loads((tmp_path / "tune" / "run.json").read_text())["settings"]
    assert (settings["allow_leakage"], settings["max_new_tokens"], "beams" in settings) == (True, 1, False)
    assert json.loads((tmp_path / "tune" / "preset.json").read_text())["evidence"]["allow_leakage"] is True


def test_samples_of_a_test_split_are_refused_for_every_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = make_samples(40, seed=0, hinted=0.3)
    object.__setattr__(samples[7], "split", "test")
    monkeypatch.setattr(setup, "load_dataset", lambda *_: samples)
    assert tune(tmp_path / "tune") == 2
    assert "these are of split 'test'" in capsys.readouterr().err
