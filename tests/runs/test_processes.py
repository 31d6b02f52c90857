"""Processes that share one run, simulated by threads with a short heartbeat timeout; tests/cli has real processes."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs import processes
from r2t2_jax.runs.batch_files import stack
from r2t2_jax.runs.folder import check_folder
from r2t2_jax.runs.interrupt import RunInterrupted
from r2t2_jax.runs.plan import Batch, Plan, ProcessShard
from r2t2_jax.runs.processes import ProcessGroup
from r2t2_jax.runs.run import Run, run_multiprocess
from tests.runs import worker


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "HEARTBEAT_INTERVAL", 0.02)
    monkeypatch.setattr(processes, "HEARTBEAT_TIMEOUT", 1.0)
    monkeypatch.setattr(processes, "GRACE", 60.0)  # all threads share this process, which must not exit


def run_all(count: int, folder: Path, part: Callable[[ProcessGroup], None]) -> list[BaseException | None]:
    """The exception of each process, or `None`."""
    ended: list[BaseException | None] = [None] * count
    members = [ProcessGroup(folder, ProcessShard(index, count)) for index in range(count)]
    for member in members:
        member.write_heartbeat()

    def live(index: int) -> None:
        try:
            with members[index] as member:
                part(member)
        except BaseException as error:
            ended[index] = error

    threads = [threading.Thread(target=live, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def compute_share(member: ProcessGroup) -> None:
    """Compute this process's share of the worker's run."""

    def compute(run: Run) -> None:
        for batch in run.missing():
            run.append(batch, worker.make_rows(batch, 2.0))

    run_multiprocess(
        member,
        lambda: Run.open(member.own_folder(), "work", {"power": 2.0}, worker.PLAN, group=member),
        compute,
        lambda run: run.finish(worker.summary(run)),
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_processes_compute_the_rows_of_one(count: int, tmp_path: Path) -> None:
    worker.main(str(tmp_path / "single"))
    assert run_all(count, tmp_path / "run", compute_share) == [None] * count
    assert (tmp_path / "run/summary.json").read_bytes() == (tmp_path / "single/summary.json").read_bytes()
    assert not list((tmp_path / "run").glob("process-*"))


def test_every_batch_belongs_to_one_process() -> None:
    batches = worker.PLAN.batches
    for count in (1, 2, 5, 40):
        shares = [[batch for batch in batches if ProcessShard(index, count).has(batch)] for index in range(count)]
        assert sorted(batch.number for share in shares for batch in share) == list(range(len(batches)))


def test_a_process_without_heartbeat_is_named_and_ends_the_others(tmp_path: Path) -> None:
    def part(member: ProcessGroup) -> None:
        if member.share.index == 1:
            member._closed.set()  # no further heartbeat
            time.sleep(3)
            return
        member.wait("done")

    first, _, third = run_all(3, tmp_path, part)
    for error in (first, third):
        assert isinstance(error, R2T2Error)
        # The slower of the two may read the other's error before its own timeout.
        assert re.match(
            r"(process [02] \(.*\) failed \()?process 1 \(.*\) sent no heartbeat for 1 seconds: it or its host died",
            str(error),
        )
        assert str(error).count("start all processes again") == 1


def test_a_folder_that_is_not_shared_is_an_error(tmp_path: Path) -> None:
    def part(member: ProcessGroup) -> None:
        member.wait("done")

    member = ProcessGroup(tmp_path, ProcessShard(0, 2))
    member.write_heartbeat()
    with (
        pytest.raises(R2T2Error, match=r"process 1 has no file in .*: all hosts must share this folder"),
        member,
    ):
        part(member)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (R2T2Error("no such bank"), R2T2Error, r"process 1 \(\d+ on .*\) failed \(no such bank\)"),
        (
            R2T2Error(f"process 2 died. {processes.RETRY}"),
            R2T2Error,
            r"failed \(process 2 died\.\)\. Saved batches",
        ),
        (RunInterrupted("SIGTERM"), RunInterrupted, r"process 1 \(\d+ on .*\) stopped\. Saved batches are kept"),
    ],
)
def test_a_process_that_ends_early_ends_the_others(
    error: Exception, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    def part(member: ProcessGroup) -> None:
        if member.share.index == 1:
            raise error
        member.wait("done")

    first, second = run_all(2, tmp_path / "run", part)
    assert second is error
    assert type(first) is kind
    assert re.search(message, str(first))
    assert not (tmp_path / "run").exists()  # no batch was saved


def test_status_files_of_an_earlier_attempt_are_ignored(tmp_path: Path) -> None:
    stale = {"pid": 1, "host": "gone", "heartbeat": 7, "phase": "failed", "message": "long ago"}
    for index in range(2):
        (tmp_path / f"process-{index:05d}.json").write_text(json.dumps(stale))
    check_folder(tmp_path)
    assert run_all(2, tmp_path, compute_share) == [None, None]


def test_rows_of_a_killed_process_are_merged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three processes computed its whole share, one a part of it, the third never began."""
    folder = tmp_path / "run"
    worker.main(str(tmp_path / "single"))
    for index, batches in ((0, 2), (1, 99)):
        member = ProcessGroup(folder, ProcessShard(index, 3))
        with Run.open(member.own_folder(), "work", {"power": 2.0}, worker.PLAN, group=None) as run:
            own_batches = [batch for batch in worker.PLAN.batches if member.share.has(batch)]
            for batch in own_batches[:batches]:
                run.append(batch, worker.make_rows(batch, 2.0))
    computed: list[int] = []
    original = worker.make_rows

    def counted(batch: Batch, power: float) -> list[dict]:
        computed.append(batch.number)
        return original(batch, power)

    monkeypatch.setattr(worker, "make_rows", counted)
    assert run_all(3, folder, compute_share) == [None] * 3
    assert (folder / "summary.json").read_bytes() == (tmp_path / "single/summary.json").read_bytes()
    done = {batch.number for batch in worker.PLAN.batches if ProcessShard(1, 3).has(batch)}
    assert not done & set(computed) and len(computed) == len(set(computed))
    with Run.open(folder, "work", {"power": 2.0}, worker.PLAN) as run:
        assert stack(run.table()["path"]).shape[0] == 43


def test_a_run_with_one_share_cannot_be_finished(tmp_path: Path) -> None:
    member = ProcessGroup(tmp_path, ProcessShard(0, 2))
    with Run.open(tmp_path / "run", "work", {}, Plan(worker.PLAN.parts), group=member) as run:
        for batch in run.todo(run.plan.names):
            run.append(batch, worker.make_rows(batch, 2.0))
        with pytest.raises(ValueError, match="is not complete"):
            run.finish({})
