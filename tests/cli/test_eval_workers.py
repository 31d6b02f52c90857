"""Commands with `--ray` on a real cluster of two nodes on this machine: the same bytes as in one process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ports.pocket.dataset import load as pocket_questions
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.devices import local_model
from r2t2_jax.runs.batch_files import saved_batches
from tests.evaluation.faulty_pocket import HOLD
from tests.evaluation.toy_files import MODEL, arguments
from tests.ray_nodes import two_nodes

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # a node starts as another program at once

POCKET = "tests.evaluation.faulty_pocket:faulty"
RESULTS = ("summary.json", "rows.parquet")
FEW = ["--space", "simplex", "--optimizer", "adam", "--learning-rate", "0.1", "0.5", "--k", "2", "--kernel", "linear"]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture
def address(nodes: Any) -> str:
    return nodes.address


def contents(out: Path, names: tuple[str, ...] = RESULTS) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in names}


def all_contents(folder: Path) -> dict[str, bytes]:
    """The contents of all files except the timings."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "timings.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_eval_on_two_workers(address: str, files: Path, whole: Path, tmp_path: Path) -> None:
    assert main(arguments(files, tmp_path / "run", "--ray", address, "--workers", "2")) == 0
    assert contents(tmp_path / "run") == contents(whole)


@pytest.mark.slow
def test_a_steering_file_on_a_worker(address: str, files: Path, tmp_path: Path) -> None:
    steer = tmp_path / "steer.json"
    steer.write_text('{"steering": 1, "rules": [{"layers": [0], "mask": ["left"]}, {"boost": {"right": 2.0}}]}')
    options = ["--steer", str(steer), "--strategy", "base"]
    for out, place in (("one", []), ("two", ["--ray", address, "--workers", "1"])):
        assert main(arguments(files, tmp_path / out, *options, *place)) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
def test_workers_compute_only_the_strategies_that_are_added(
    address: str, files: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main(arguments(files, out, "--strategy", "kernel_regression")) == 0
    assert main(arguments(files, out, "--ray", address, "--workers", "1")) == 0
    assert all_contents(out) == all_contents(whole)


def test_a_bank_and_its_atlas(address: str, files: Path, tmp_path: Path) -> None:
    workers = ["--ray", address, "--workers", "1"]
    one, two = tmp_path / "one", tmp_path / "two"
    for out, options in ((one, []), (two, workers)):
        build = ["bank", "build", "--model", MODEL, "--dataset", str(files / "references.jsonl"), "--keep", "9"]
        assert main([*build, "--batch-size", "5", "--out", str(out), *options]) == 0
        atlas = ["bank", "atlas", str(out), "--model", MODEL, "--points", "4", "--candidates", "2", "--k", "3"]
        assert main([*atlas, "--batch-size", "10", *options]) == 0
    assert all_contents(one) == all_contents(two)
    assert len(ReferenceBank.open(two)) < 40  # the limit was reached


@pytest.mark.slow
def test_tune_and_reproduce(address: str, files: Path, tmp_path: Path) -> None:
    bank, workers = ["--bank", str(files / "bank")], ["--ray", address, "--workers", "1"]
    for out, options in ((tmp_path / "one", []), (tmp_path / "two", workers)):
        tune = ["tune", "--model", MODEL, "--data", str(files / "one.jsonl"), *bank, *FEW]
        assert main([*tune, "--out", str(out / "tune"), *options]) == 0
        table = ["reproduce", "table9", "--model", MODEL, "--data", str(files / "one.jsonl"), *bank]
        assert main([*table, "--samples", "12", "--block", "8", "--out", str(out / "table9"), *options]) == 0
    for name in ("tune/summary.json", "tune/preset.json", "table9/summary.json", "table9/table9.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# What a cluster does to the workers, with the pocket model.


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank, questions, and the run on them in one process."""
    folder = tmp_path_factory.mktemp("pocket")
    build = ["bank", "build", "--model", POCKET, "--dataset", "pocket", "--samples", "100"]
    assert main([*build, "--out", str(folder / "bank")]) == 0
    assert main(evaluate(folder, write_questions(folder), folder / "whole")) == 0
    return folder


def write_questions(folder: Path, fatal: int = -1) -> Path:
    """30 slow questions; workers note themselves in the folder `pids`, and the one at `fatal` kills its worker."""
    path, pids, lines = folder / "questions.jsonl", folder / "pids", []
    shutil.rmtree(pids, ignore_errors=True)
    pids.mkdir()
    for i, sample in enumerate(pocket_questions("test", 30, seed=0)):
        Image.fromarray(sample.image).save(folder / f"{i}.png")
        name = f"fatal-{i}" if i == fatal else f"question-{i}"
        line = {"id": name, "image": f"{i}.png", "question": sample.question, "answer": sample.answers[0]}
        lines.append(line | {"category": str(pids)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def evaluate(folder: Path, questions: Path, out: Path, *more: str) -> list[str]:
    options = ["--bank", str(folder / "bank"), "--benchmark", str(questions), "--strategy", "base,kernel_regression"]
    return ["eval", "--model", POCKET, *options, "--batch-size", "3", "--out", str(out), *more]


def evaluate_slowly(
    pocket: Path, place: Path, options: list[str], act: Callable[[set[int]], bool]
) -> tuple[set[int], str]:
    """Run the command in another process, and call `act` with the workers' processes until it returns true.

    Returns all processes that were workers, and the standard error of the command, after it succeeded.
    """
    questions, pids, acted = write_questions(pocket), pocket / "pids", False
    command = [sys.executable, "-m", "r2t2_jax.cli.main", *evaluate(pocket, questions, place / "run", *options)]
    with (place / "errors").open("w+") as errors, subprocess.Popen(command, stderr=errors) as driver:
        while driver.poll() is None:
            acted = acted or act({int(path.name) for path in pids.iterdir()})
            time.sleep(0.1)
        errors.seek(0)
        text = errors.read()
    assert driver.returncode == 0, text
    assert acted
    assert contents(place / "run", ("summary.json",)) == contents(pocket / "whole", ("summary.json",))
    return {int(path.name) for path in pids.iterdir()}, text


@pytest.mark.slow
def test_a_worker_killed_in_a_batch(address: str, pocket: Path, tmp_path: Path) -> None:
    def kill(workers: set[int]) -> bool:
        if workers:
            time.sleep(0.3)  # in the middle of its first batch
            os.kill(workers.pop(), signal.SIGKILL)
            return True
        return False

    workers, errors = evaluate_slowly(pocket, tmp_path, ["--ray", address, "--workers", "2"], kill)
    assert len(workers) == 3
    assert "its batch goes to another worker" in errors


@pytest.mark.slow
def test_a_removed_node(nodes: Any, pocket: Path, tmp_path: Path) -> None:
    extra = nodes.add_node(num_cpus=1)
    (hold := pocket / HOLD).touch()

    def remove(workers: set[int]) -> bool:
        if len(workers) == 3:
            nodes.remove_node(extra, allow_graceful=False)
            hold.unlink()
        return len(workers) == 3

    _, errors = evaluate_slowly(pocket, tmp_path, ["--ray", nodes.address, "--workers", "3"], remove)
    assert "its batch goes to another worker" in errors


@pytest.mark.slow
def test_a_node_that_joins_late_computes_too(nodes: Any, pocket: Path, tmp_path: Path) -> None:
    late: list[Any] = []
    (hold := pocket / HOLD).touch()

    def join(workers: set[int]) -> bool:
        if workers and not late:
            late.append(nodes.add_node(num_cpus=1))
        if len(workers) == 3:
            hold.unlink()
        return len(workers) == 3

    workers, _ = evaluate_slowly(pocket, tmp_path, ["--ray", nodes.address], join)
    nodes.remove_node(late[0])
    assert len(workers) == 3


@pytest.mark.slow
def test_a_question_that_kills_its_worker_is_named_and_all_others_are_saved(
    address: str, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = write_questions(pocket, fatal=13)
    assert main(evaluate(pocket, questions, tmp_path / "run", "--ray", address)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'fatal-13'" in error and "killed 3 workers" in error
    assert len(saved_batches(tmp_path / "run")) == 9  # of 10


@pytest.mark.slow
def test_a_killed_driver_resumes_to_the_same_bytes(address: str, pocket: Path, tmp_path: Path) -> None:
    questions = write_questions(pocket)
    options = evaluate(pocket, questions, tmp_path / "run", "--ray", address)
    with subprocess.Popen([sys.executable, "-m", "r2t2_jax.cli.main", *options, "--workers", "1"]) as driver:
        while len(saved_batches(tmp_path / "run")) < 2:
            assert driver.poll() is None
            time.sleep(0.05)
        driver.kill()
    assert 2 <= len(saved_batches(tmp_path / "run")) < 10
    assert main(options) == 0
    assert contents(tmp_path / "run", ("summary.json",)) == contents(pocket / "whole", ("summary.json",))


# Bad options, before anything is computed or written.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers, --worker-resources and --model-uri need --ray"),
        (["--worker-resources", '{"GPU": 1}'], "--workers, --worker-resources and --model-uri need --ray"),
        (["--model-uri", "gs://bucket/model"], "--model-uri need --ray"),
        (["--ray", "local", "--workers", "none"], "--workers 'none' is neither a number nor auto"),
        (["--ray", "local", "--workers", "1.5"], "--workers '1.5' is neither a number nor auto"),
        (["--ray", "local", "--workers", "0"], "--workers 0: give at least 1, or auto"),
        (["--ray", "local", "--workers=-1"], "--workers -1: give at least 1, or auto"),
        (["--ray", "local", "--worker-resources", "{"], "--worker-resources is not JSON"),
        (["--ray", "local", "--worker-resources", "[1]"], "--worker-resources must be a JSON object"),
        (["--ray", "local", "--worker-resources", "{}"], "--worker-resources must be a JSON object"),
        (["--ray", "local", "--worker-resources", '{"GPU": 0}'], "GPU must be a positive number, not 0"),
        (["--ray", "local", "--worker-resources", '{"GPU": "1"}'], "GPU must be a positive number, not '1'"),
        (["--ray", "local", "--worker-resources", '{"GPU": NaN}'], "'GPU' is NaN"),
        (["--ray", "local", "--worker-resources", '{"GPU": 1.5}'], "GPU above 1 must be a whole number, not 1.5"),
        (["--ray", "127.0.0.1:1"], "cannot reach the Ray cluster '127.0.0.1:1': Connection refused"),
        (["--ray", "locall"], "--ray 'locall' is no address: give local, auto, or HOST:PORT"),
        (["--ray", "127.0.0.1:99999"], "--ray '127.0.0.1:99999' is no address"),
        (["--ray", "local", "--model-uri", "file:///nowhere"], "--model-uri is for model directories"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "bank build", "bank atlas", "tune", "reproduce"])
def test_bad_options_are_one_line(
    command: str,
    options: list[str],
    message: str,
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, questions = str(tmp_path / "run"), str(files / "one.jsonl")
    commands = {
        "eval": arguments(files, tmp_path / "run"),
        "bank build": ["bank", "build", "--model", MODEL, "--dataset", questions, "--out", out],
        "bank atlas": ["bank", "atlas", str(files / "bank"), "--model", MODEL],
        "tune": ["tune", "--model", MODEL, "--data", questions, "--bank", str(files / "bank"), "--out", out],
        "reproduce": ["reproduce", "table9", "--model", MODEL, "--data", questions, "--out", out],
    }
    assert main([*commands[command], *options]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert message in error
    assert not (tmp_path / "run").exists()


def model_directory(folder: Path, digest: str) -> Path:
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps({"port": "pocket", "sha256": digest}))
    (folder / "weights").write_bytes(b"weights")
    return folder


def test_a_model_that_a_host_does_not_see_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = model_directory(tmp_path / "source", "1")
    copy = local_model("models/pocket-1", f"file://{source}")
    assert all_contents(Path(copy)) == all_contents(source)
    (source / "weights").unlink()
    assert local_model("models/pocket-1", f"file://{source}") == copy
    assert local_model(str(source), f"file://{source}") == str(source)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file://{}/other", "holds another model than .*: model.json has digest"),
        ("file://{}/missing", "cannot read model.json of a model directory from --model-uri"),
        ("nosuch://bucket/model", "cannot open --model-uri nosuch://bucket/model"),
    ],
)
def test_a_model_uri_must_hold_the_model(uri: str, message: str, tmp_path: Path) -> None:
    source = model_directory(tmp_path / "source", "1")
    model_directory(tmp_path / "other", "2")
    with pytest.raises(R2T2Error, match=message):
        local_model(str(source), uri.format(tmp_path))


def test_resources_that_the_cluster_lacks_are_refused(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--ray", "local", "--worker-resources", '{"CPU": 5000}']
    assert main(arguments(files, tmp_path / "run", "--dry-run", *options)) == 2
    assert "no node of the Ray cluster 'local' has 5000 CPU for a worker: there are 1 node" in capsys.readouterr().err
