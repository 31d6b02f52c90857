"""`r2t2 eval --ray` on a real cluster of two nodes on this machine: the same bytes as in one process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from r2t2_jax.cli.main import main
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


def test_workers_give_the_same_bytes_as_one_process(address: str, files: Path, whole: Path, tmp_path: Path) -> None:
    assert main(arguments(files, tmp_path / "run", "--ray", address, "--workers", "2")) == 0
    assert results(tmp_path / "run") == results(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers and --worker-resources need --ray"),
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
