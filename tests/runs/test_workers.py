"""Ray workers on a real cluster of two nodes on this machine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.cluster import WorkerConfig, cluster
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.workers import WorkerPool, WorkerProgram
from tests.ray_nodes import two_nodes

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # a node starts as another program at once
PLAN = Plan([Part("squares", samples=40, batch=4)])


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture
def address(nodes: Any) -> str:
    return nodes.address


def run(
    config: WorkerConfig, log: list[str], check: Callable[[], None] = lambda: None, **arguments: Any
) -> dict[int, list[dict[str, int]]]:
    program = WorkerProgram("tests.runs.ray_work:create", {"power": 2, **arguments})
    with cluster(config) as connected:
        pool = WorkerPool(connected, config, program, log.append)
        try:
            return {batch.number: rows for batch, rows, _ in pool.map(PLAN.batches, numbers, names, check)}
        finally:
            pool.close()


def numbers(batch: Batch) -> list[int]:
    return list(range(batch.start, batch.stop))


def names(batch: Batch) -> str:
    return f"samples {batch.start} to {batch.stop - 1}"


def test_a_cluster_that_does_not_start_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**arguments: Any) -> None:
        raise Exception(
            "The current node timed out\nduring startup."
        )  # what Ray raises on a machine with much other work

    monkeypatch.setattr("ray.init", init)
    message = "^cannot reach the Ray cluster 'local': The current node timed out during startup.$"
    with pytest.raises(R2T2Error, match=message), cluster(WorkerConfig("local")):
        pass


EXPECTED = {batch.number: [{"i": i, "value": i * i} for i in numbers(batch)] for batch in PLAN.batches}


@pytest.mark.parametrize("workers", [1, 2, None])
def test_every_batch_is_computed_once(address: str, workers: int | None) -> None:
    log: list[str] = []
    assert run(WorkerConfig(address, workers), log) == EXPECTED
    assert log == []


def test_a_killed_worker_loses_no_batch(address: str, tmp_path: Path) -> None:
    log: list[str] = []
    assert run(WorkerConfig(address, 2), log, killed=str(tmp_path / "killed")) == EXPECTED
    assert len(log) == 1
    assert "its batch goes to another worker" in log[0]


def test_a_batch_that_kills_three_workers_is_named(address: str) -> None:
    log: list[str] = []
    with pytest.raises(R2T2Error, match="squares: samples 12 to 15: each killed 3 workers"):
        run(WorkerConfig(address, 1), log, poison=13)
    assert len(log) == 3


def test_errors_of_the_work_and_of_the_program_are_raised_as_they_are(address: str) -> None:
    with pytest.raises(R2T2Error, match="sample 7 has no power"):
        run(WorkerConfig(address, 1), [], refuse=7)
    with pytest.raises(R2T2Error, match="the power must not be negative"):
        run(WorkerConfig(address, 1), [], power=-1)


def test_a_worker_that_joins_late_computes_too(nodes: Any, tmp_path: Path) -> None:
    late: list[Any] = []

    def join() -> None:
        if not late and list(tmp_path.iterdir()):
            late.append(nodes.add_node(num_cpus=1))

    assert run(WorkerConfig(nodes.address), [], check=join, pids=str(tmp_path), processes=3) == EXPECTED
    nodes.remove_node(late[0])


def test_a_removed_node_loses_no_batch(nodes: Any, tmp_path: Path) -> None:
    log: list[str] = []
    extra = [nodes.add_node(num_cpus=1)]
    pids, removed = tmp_path / "pids", tmp_path / "removed"
    pids.mkdir()

    def remove() -> None:
        if extra and len(list(pids.iterdir())) == 3:  # each has a batch, and keeps it until `removed` exists
            nodes.remove_node(extra.pop(), allow_graceful=False)
        elif log:  # not before: the worker outlives its node by a moment, in which it could return its batch
            removed.touch()

    config = WorkerConfig(nodes.address, 3)
    assert run(config, log, check=remove, pids=str(pids), processes=3, until=str(removed)) == EXPECTED
    assert not extra
    assert any("goes to another worker" in line for line in log)
