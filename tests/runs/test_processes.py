"""Processes that fill one run: threads play them here, with less patience; real processes do in tests/cli."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs import processes as teams
from r2t2_jax.runs import run as together
from r2t2_jax.runs.batch_files import stack
from r2t2_jax.runs.folder import check_folder
from r2t2_jax.runs.interrupt import RunInterrupted
from r2t2_jax.runs.plan import Batch, Plan, ProcessShard
from r2t2_jax.runs.processes import Team
from r2t2_jax.runs.run import Run
from tests.runs import worker


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teams, "BEAT", 0.02)
    monkeypatch.setattr(teams, "PATIENCE", 1.0)
    monkeypatch.setattr(teams, "GRACE", 60.0)  # these tests share a process, which must not be ended


def all_of(count: int, folder: Path, part: Callable[[Team], None]) -> list[BaseException | None]:
    """What each process ends with."""
    ended: list[BaseException | None] = [None] * count
    members = [Team(folder, ProcessShard(index, count)) for index in range(count)]
    for member in members:
        member.announce()

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


def fill(member: Team) -> None:
    """Each computes its share of the worker's run."""

    def compute(run: Run) -> None:
        for batch in run.missing():
            run.append(batch, worker.rows(batch, 2.0))

    together.fill(
        member,
        lambda: Run.open(member.place(), "work", {"power": 2.0}, worker.PLAN, team=member),
        compute,
        lambda run: run.finish(worker.summary(run)),
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_rows_are_those_of_one_process(count: int, tmp_path: Path) -> None:
    worker.main(str(tmp_path / "alone"))
    assert all_of(count, tmp_path / "run", fill) == [None] * count
    assert (tmp_path / "run/summary.json").read_bytes() == (tmp_path / "alone/summary.json").read_bytes()
    assert not list((tmp_path / "run").glob("process-*"))


def test_shares_are_the_plan_once() -> None:
    batches = worker.PLAN.batches
    for count in (1, 2, 5, 40):
        shares = [[batch for batch in batches if ProcessShard(index, count).has(batch)] for index in range(count)]
        assert sorted(batch.number for share in shares for batch in share) == list(range(len(batches)))


def test_a_silent_process_is_named_and_nobody_waits_for_it(tmp_path: Path) -> None:
    def part(member: Team) -> None:
        if member.share.index == 1:
            member._closed.set()  # it says nothing from here on
            time.sleep(3)
            return
        member.wait("done")

    first, _, third = all_of(3, tmp_path, part)
    for error in (first, third):
        assert isinstance(error, R2T2Error)
        # The slower of the two may hear of it from the other before it notices.
        assert re.match(
            r"(process [02] \(.*\) failed \()?process 1 \(.*\) has been silent for 1 seconds: it died", str(error)
        )
        assert str(error).count("start all processes again") == 1


def test_a_folder_that_others_do_not_see_is_told(tmp_path: Path) -> None:
    def part(member: Team) -> None:
        member.wait("done")

    member = Team(tmp_path, ProcessShard(0, 2))
    member.announce()
    with (
        pytest.raises(R2T2Error, match=r"process 1 is not to be seen in .*: that folder must be one which all"),
        member,
    ):
        part(member)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (R2T2Error("no such bank"), R2T2Error, r"process 1 \(\d+ on .*\) failed \(no such bank\)"),
        (
            R2T2Error(f"process 2 fell silent. {teams.RETRY}"),
            R2T2Error,
            r"failed \(process 2 fell silent\.\)\. What was saved",
        ),
        (RunInterrupted("SIGTERM"), RunInterrupted, r"process 1 \(\d+ on .*\) stopped\. What was saved stays"),
    ],
)
def test_who_ends_tells_the_others(error: Exception, kind: type[Exception], said: str, tmp_path: Path) -> None:
    def part(member: Team) -> None:
        if member.share.index == 1:
            raise error
        member.wait("done")

    first, second = all_of(2, tmp_path / "run", part)
    assert second is error
    assert type(first) is kind
    assert re.search(said, str(first))
    assert not (tmp_path / "run").exists()  # nothing was saved


def test_what_an_earlier_attempt_left_is_no_news(tmp_path: Path) -> None:
    stale = {"pid": 1, "host": "gone", "beat": 7, "phase": "failed", "said": "long ago"}
    for index in range(2):
        (tmp_path / f"process-{index:05d}.json").write_text(json.dumps(stale))
    check_folder(tmp_path)
    assert all_of(2, tmp_path, fill) == [None, None]


def test_rows_of_a_killed_process_are_adopted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three processes two had done all or some of their share; the third never began."""
    folder = tmp_path / "run"
    worker.main(str(tmp_path / "alone"))
    for index, batches in ((0, 2), (1, 99)):
        member = Team(folder, ProcessShard(index, 3))
        with Run.open(member.place(), "work", {"power": 2.0}, worker.PLAN, team=None) as run:
            mine = [batch for batch in worker.PLAN.batches if member.share.has(batch)]
            for batch in mine[:batches]:
                run.append(batch, worker.rows(batch, 2.0))
    computed: list[int] = []
    original = worker.rows

    def counted(batch: Batch, power: float) -> list[dict]:
        computed.append(batch.number)
        return original(batch, power)

    monkeypatch.setattr(worker, "rows", counted)
    assert all_of(3, folder, fill) == [None] * 3
    assert (folder / "summary.json").read_bytes() == (tmp_path / "alone/summary.json").read_bytes()
    done = {batch.number for batch in worker.PLAN.batches if ProcessShard(1, 3).has(batch)}
    assert not done & set(computed) and len(computed) == len(set(computed))
    with Run.open(folder, "work", {"power": 2.0}, worker.PLAN) as run:
        assert stack(run.table()["path"]).shape[0] == 43


def test_a_plan_is_not_finished_by_a_share(tmp_path: Path) -> None:
    member = Team(tmp_path, ProcessShard(0, 2))
    with Run.open(tmp_path / "run", "work", {}, Plan(worker.PLAN.parts), team=member) as run:
        for batch in run.todo(run.plan.names):
            run.append(batch, worker.rows(batch, 2.0))
        with pytest.raises(ValueError, match="is not complete"):
            run.finish({})
