"""`r2t2 eval` of tiny MoVA and MoAI on every set that can be prepared: the answers mean nothing, the way does."""

import json
import os
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from r2t2_jax.cli.main import main
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.metrics import METRICS
from r2t2_jax.runs.reading import open_run
from tests.datasets.official import OFFICIAL
from tests.ports.moai import checkpoint as moai
from tests.ports.mova import checkpoint as mova

pytest.importorskip("safetensors")
pytestmark = pytest.mark.slow

SAMPLES = Path(os.environ.get("R2T2_SAMPLES", Path(__file__).parents[2].parent / "shared" / "samples"))
PRESET = {"settings": {"neighborhood.k": 2, "descent.steps": 2, "mode.k": 2}}
STRATEGIES = ("base", "router_mean", "kernel_regression", "ngd")
REAL = ("clevr", "vqav2", "mmbench", "tqa", "docvqa", "easy_vqa")  # whose samples came with enough images


@pytest.fixture(scope="module", params=["mova", "moai"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A converted directory."""
    folder = tmp_path_factory.mktemp(request.param)
    {"mova": mova, "moai": moai}[request.param].write_checkpoint(folder / "source")
    assert main(["convert", request.param, str(folder / "source"), str(folder / "model"), "--quiet"]) in (0, None)
    return str(folder / "model")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """References and settings."""
    folder = tmp_path_factory.mktemp("place")
    rng, lines = np.random.default_rng(0), []
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append({"id": f"r{i}", "image": f"{i}.png", "question": f"what is in box {i}?", "answer": "red"})
    (folder / "references.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "preset.json").write_text(json.dumps(PRESET))
    return folder


@pytest.fixture(scope="module")
def bank(model: str, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank that counts every answer of the model as correct: random weights answer nothing correctly."""
    out = tmp_path_factory.mktemp("bank") / "bank"
    build = ["bank", "build", "--model", model, "--dataset", str(place / "references.jsonl")]
    with pytest.MonkeyPatch.context() as patch, quiet():
        patch.setitem(METRICS, "anything", lambda prediction, sample: 1.0)
        assert main([*build, "--metric", "anything", "--batch-size", "6", "--out", str(out)]) == 0
    return out


def quiet() -> warnings.catch_warnings:
    """MoAI says that it runs without auxiliary inputs."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def evaluate(model: str, bank: Path, place: Path, out: Path, *more: str) -> None:
    settings = ["--preset", str(place / "preset.json"), "--strategy", ",".join(STRATEGIES), "--batch-size", "4"]
    with quiet():
        assert main(["eval", "--model", model, "--bank", str(bank), *settings, "--out", str(out), *more]) == 0


def check(out: Path, benchmarks: list[str]) -> None:
    """Every question once for every strategy, weights that are weights, and scores by the official metrics."""
    saved = open_run(out)
    assert [one["benchmark"] for one in saved.summary["models"].values()] == benchmarks
    rows = saved.rows.to_pylist()
    assert len({(row["benchmark"], row["strategy"], row["id"]) for row in rows}) == len(rows)
    for summary in saved.summary["models"].values():
        mine = [row for row in rows if row["benchmark"] == summary["benchmark"]]
        assert len(mine) == len(STRATEGIES) * summary["n"] > 0
        assert list(summary["strategies"]) == list(STRATEGIES)
        for entry in summary["strategies"].values():
            assert 0 <= entry["accuracy"] <= 1 and entry["score"]
    for row in rows:
        assert np.isfinite(row["weights"]).all() and np.isfinite(row["path"]).all()
        assert row["strategy"] not in ("ngd", "kernel_regression") or len(row["neighbors"]) == 2


def test_every_set_in_its_official_layout(
    model: str, bank: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2T2_DATA", str(tmp_path / "data"))
    names = [name for name in OFFICIAL if name != "jsonl"]
    for name in names:
        OFFICIAL[name](tmp_path / name)
        split = ["--split", DATASETS[name].splits[0]]
        assert main(["datasets", "prepare", name, "--manual-dir", str(tmp_path / name), *split]) == 0
    evaluate(model, bank, place, tmp_path / "run", "--benchmark", ",".join(names))
    check(tmp_path / "run", names)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"{SAMPLES} is not here")
def test_real_questions(model: str, bank: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2T2_DATA", str(tmp_path / "data"))
    splits = {"clevr": "val", "vqav2": "train", "mmbench": "dev", "tqa": "val", "docvqa": "val", "easy_vqa": "test"}
    for name in REAL:
        manual = ["--manual-dir", str(SAMPLES / name), "--split", splits[name], "--skip-bad"]
        assert main(["datasets", "prepare", name, *manual]) == 0
        limit = ("--limit", "8")  # one whole question of MMBench, all its passes
        evaluate(model, bank, place, tmp_path / name, "--benchmark", name, "--split", splits[name], *limit)
        check(tmp_path / name, [name])


def other_questions(place: Path) -> tuple[str, str]:
    """The option for questions that are no references."""
    lines = (place / "references.jsonl").read_text().replace('"r', '"q').replace("what is in", "which color has")
    (place / "questions.jsonl").write_text(lines)
    return "--benchmark", str(place / "questions.jsonl")


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # a node starts as another program at once
def test_a_ray_worker_shards_its_weights_as_one_process_does(
    model: str, bank: Path, place: Path, tmp_path: Path
) -> None:
    """An actor spans two of the virtual devices of its host; this process would use one without a mesh."""
    pytest.importorskip("ray")
    questions = (*other_questions(place), "--mesh", "model=2")
    evaluate(model, bank, place, tmp_path / "one", *questions)
    evaluate(model, bank, place, tmp_path / "ray", *questions, "--ray", "local", "--workers", "1")
    for name in ("rows.parquet", "summary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


def test_sharded_weights_give_the_same_answers(model: str, bank: Path, place: Path, tmp_path: Path) -> None:
    """Read from the directory into their shards; answers are those of one device up to ties of a random model."""
    questions = other_questions(place)
    with jax.default_matmul_precision("highest"):
        evaluate(model, bank, place, tmp_path / "one", *questions)
        evaluate(model, bank, place, tmp_path / "two", *questions, "--mesh", "data=2,model=2")
    one, two = (open_run(tmp_path / name).rows.to_pylist() for name in ("one", "two"))
    assert [(row["id"], row["strategy"]) for row in one] == [(row["id"], row["strategy"]) for row in two]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a["router_weights"], b["router_weights"], atol=1e-5)
        np.testing.assert_allclose(a["weights"], b["weights"], atol=1e-5)
        assert a["neighbors"] == b["neighbors"] and a["prediction"] == b["prediction"]
