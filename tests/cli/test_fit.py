"""`r2t2 fit` on the toy's shapes and the pocket model's."""

import json
from pathlib import Path

import pytest

from r2t2_jax.cli.main import main


def fits(model: str, memory: str, k: int, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model", model, "--memory", memory, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    record = json.loads(out.read_text())
    most, batch = record["largest_k"], record["largest_batch"]
    assert most["total"] <= record["memory"] and most["compiled"] and most["batch"] == 1
    assert batch["total"] <= record["memory"] and batch["compiled"] and batch["k"] == k
    assert most["total"] == sum(most[part] for part in ("parameters", "neighbor_features", "samples", "activations"))
    assert f"largest k for a batch of one: {most['k']}" in printed
    assert f"largest batch with k={k}: {batch['batch']}" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 80


def test_it_prints_the_largest_sizes_and_writes_the_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits("tests.toy_shapes:shapes", "60KB", 5, tmp_path / "fit.json", capsys)


@pytest.mark.slow
def test_the_pocket_model_fits_into_four_megabytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits("pocket:narrow", "4MB", 5, tmp_path / "fit.json", capsys)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--model", "pocket", "--memory", "24"], "is no size of memory"),
        (
            ["--model", "pocket", "--memory", "500KB"],
            "pocket:balanced does not fit into 500 KB: its parameters take 1.04 MB",
        ),
        (["--model", "nowhere", "--memory", "1GB"], "unknown model with shapes 'nowhere'; known: "),
        (["--model", "pocket:wide", "--memory", "1GB"], "pocket has no variant 'wide'"),
        (["--model", "pocket", "--memory", "1GB", "--question-tokens", "99"], "pocket pads questions to 16 tokens"),
        (["--model", "json:dumps", "--memory", "1GB"], "dumps"),
        (["--model", "pocket", "--memory", "1GB", "--mesh", "model=2"], "cannot be sharded over several devices"),
        (["--model", "pocket", "--memory", "1GB", "--mesh", "data=2"], "only model=N changes what a device holds"),
        (["--model", "pocket", "--memory", "1GB", "--mesh", "two"], "'two' is not a mesh"),
    ],
)
def test_bad_input_gives_one_line(options: list[str], cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *options]) == 2
    captured = capsys.readouterr()
    assert cause in captured.err and captured.err.count("\n") == 1


@pytest.mark.slow  # traces the full sizes many times
@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        ("qwen3_vl_moe:30b-a3b", []),
        ("qwen3_vl_moe:235b-a22b", ["--mesh", "model=8"]),
        ("qwen3_5_moe:35b-a3b", []),
        ("qwen3_5_moe:35b-a3b", ["--mesh", "model=2"]),
    ],
)
def test_cards_that_hold_multimodal_mixtures_of_experts(
    model: str, mesh: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fit.json"
    assert main(["fit", "--model", model, "--memory", "141GB", "--out", str(out), *mesh]) == 0
    record = json.loads(out.read_text())
    assert record["activations"] == "from shapes"
    assert record["largest_k"]["k"] >= 100
    assert record["largest_batch"]["batch"] >= 100
