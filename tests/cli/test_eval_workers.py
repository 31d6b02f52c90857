"""`r2t2 eval --ray` on a real cluster of two nodes on this machine: the same bytes as in one process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.runs.batch_files import saved_batches
from tests.evaluation.toy_files import arguments

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def results(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("summary.json", "rows.parquet")}


@pytest.mark.slow
def test_workers_give_the_same_bytes_as_one_process(address: str, files: Path, whole: Path, tmp_path: Path) -> None:
    assert main(arguments(files, tmp_path / "run", "--ray", address, "--workers", "2")) == 0
    assert results(tmp_path / "run") == results(whole)


@pytest.mark.slow
def test_a_killed_driver_resumes_to_the_same_bytes(address: str, files: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = {**os.environ, "SLOW_TOY": "0.5"}
    options = arguments(files, out, "--model", "tests.evaluation.slow_toy:slow", "--ray", address, "--workers", "1")
    with subprocess.Popen([sys.executable, "-m", "r2t2_jax.cli.main", *options], env=environment) as driver:
        while len(saved_batches(out)) < 2:
            assert driver.poll() is None
            time.sleep(0.05)
        driver.kill()
    before = len(saved_batches(out))
    assert 2 <= before < 11
    assert main(arguments(files, out, "--model", "tests.evaluation.slow_toy:slow", "--ray", address)) == 0
    assert results(out) == results(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers, --worker-resources and --model-uri need --ray"),
        (["--model-uri", "gs://bucket/model"], "--model-uri need --ray"),
        (["--ray", "local", "--workers", "none"], "--workers 'none' is neither a number nor auto"),
        (["--ray", "local", "--worker-resources", "{"], "--worker-resources is not JSON"),
        (["--ray", "local", "--worker-resources", '{"GPU": 0}'], "GPU must be a positive number, not 0"),
        (["--ray", "127.0.0.1:1"], "cannot reach the Ray cluster '127.0.0.1:1': Connection refused"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], message: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(files, tmp_path / "run", *options)) == 2
    error: Any = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (tmp_path / "run").exists()
