"""A run in one process: errors, files that remain, and reading back."""

import importlib
import json
import operator
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.batch_files import saved_batches
from r2t2_jax.runs.interrupt import RunInterrupted
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.reading import open_run
from r2t2_jax.runs.run import Run

PLAN = Plan([Part("a", samples=5, batch=2), Part("b", samples=2, batch=2)])


def begin(out: Path, settings: dict | None = None, **options) -> Run:
    return Run.open(out, "work", settings or {"k": 5}, PLAN, **options)


def fill(run: Run, stop_after: int = 99) -> None:
    for done, batch in enumerate(run.missing()):
        if done == stop_after:
            raise R2T2Error("enough")
        run.append(batch, [{"part": batch.part, "sample": sample} for sample in range(batch.start, batch.stop)])


def test_a_plan_depends_on_the_settings_only() -> None:
    assert [(b.number, b.part, b.start, b.stop) for b in PLAN.batches] == [
        (0, "a", 0, 2),
        (1, "a", 2, 4),
        (2, "a", 4, 5),
        (3, "b", 0, 2),
    ]
    with pytest.raises(R2T2Error, match="distinct names"):
        Plan([Part("a", 1, 1), Part("a", 1, 1)])
    with pytest.raises(R2T2Error, match="'a' has 0 samples"):
        Plan([Part("a", 0, 1)])


@pytest.mark.parametrize("in_memory", [False, True])
def test_rows_are_read_in_the_order_of_the_plan(tmp_path: Path, in_memory: bool) -> None:
    with begin(tmp_path / "run") as run:
        for batch in reversed(list(run.missing())):
            run.append(batch, [{"part": batch.part, "sample": sample} for sample in range(batch.start, batch.stop)])
        assert run.rows_of("b").to_pylist() == [{"part": "b", "sample": 0}, {"part": "b", "sample": 1}]
        run.export("rows", run.table() if in_memory else None)
        run.finish({"n": 7})
    saved = open_run(tmp_path / "run")
    assert saved.rows["part"].to_pylist() == ["a"] * 5 + ["b"] * 2
    assert saved.rows["sample"].to_pylist() == [0, 1, 2, 3, 4, 0, 1]
    assert pq.read_table(tmp_path / "run" / "rows.parquet") == saved.rows
    assert (saved.settings, saved.summary, saved.complete) == ({"k": 5}, {"n": 7}, True)
    assert saved.seconds_per_sample.keys() == {"a", "b"}


def test_an_unfinished_run_can_be_read_but_has_no_summary(tmp_path: Path) -> None:
    with pytest.raises(R2T2Error, match="enough"), begin(tmp_path / "run") as run:
        fill(run, stop_after=2)
    saved = open_run(tmp_path / "run")
    assert saved.rows["sample"].to_pylist() == [0, 1, 2, 3]
    with pytest.raises(R2T2Error, match="not complete"):
        _ = saved.summary
    with begin(tmp_path / "run") as run, pytest.raises(ValueError, match="2 of 4 batches"):
        run.finish({})
    with pytest.raises(R2T2Error, match="holds no run"):
        open_run(tmp_path)


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with begin(out, {"k": 5, "preset": {"steps": 10, "rate": 0.1}}) as run:
        fill(run)
    before = (out / "run.json").read_bytes()
    with pytest.raises(
        R2T2Error, match=r"settings\.k is 5 there and 7 here; settings\.preset\.steps is 10 there and 5"
    ):
        begin(out, {"k": 7, "preset": {"steps": 5, "rate": 0.1}})
    with pytest.raises(R2T2Error, match=r'model is absent there and "pocket@1" here'):
        begin(out, {"k": 5, "preset": {"steps": 10, "rate": 0.1}}, depends={"model": "pocket@1"})
    with pytest.raises(R2T2Error, match=r"plan\.0\.samples is 5 there and 6 here"):
        Run.open(out, "work", {"k": 5, "preset": {"steps": 10, "rate": 0.1}}, Plan([Part("a", 6, 2), *PLAN.parts[1:]]))
    assert (out / "run.json").read_bytes() == before
    assert not (out / "lock").exists()


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(R2T2Error, match=f"cannot write {out}"):
            begin(out)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    with pytest.raises(R2T2Error, match=r"holds 'chapter\.tex', which is not part of a run"):
        begin(tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_run_that_saved_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(R2T2Error, match="enough"), begin(tmp_path / "run") as run:
        fill(run, stop_after=0)
    with pytest.raises(RunInterrupted, match="the limit of 1e-09 hours is reached: stopped before anything was saved"):  # noqa: SIM117
        with begin(tmp_path / "run", max_hours=1e-9) as run:
            fill(run)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(R2T2Error, match="max_hours must be positive"):
        begin(tmp_path / "run", max_hours=0)


def test_the_time_limit_stops_a_run_and_prints_the_command_to_resume(tmp_path: Path) -> None:
    out = tmp_path / "a run"
    with pytest.raises(R2T2Error, match="enough"), begin(out) as run:
        fill(run, stop_after=3)
    with pytest.raises(RunInterrupted) as stop, begin(out, max_hours=1e-9) as run:
        fill(run)
    assert str(stop.value) == (
        "the limit of 1e-09 hours is reached: stopped after 3 of 4 batches. "
        f"Resume with: r2t2 work --config '{out}/run.json' --out '{out}'"
    )


def test_threads_share_the_batches_of_the_last_part_after_its_first(tmp_path: Path) -> None:
    both, first_is_done = threading.Barrier(2, timeout=60), threading.Event()

    def work(batch: Batch) -> list[dict]:
        if batch.number == 0:
            time.sleep(0.1)  # a second thread would begin meanwhile
            first_is_done.set()
        else:
            assert first_is_done.is_set()
            both.wait()  # for the other thread, which computes another batch
        return [{"i": i} for i in range(batch.start, batch.stop)]

    with Run.open(tmp_path / "run", "work", {}, Plan([Part("only", 9, 1)])) as run:
        run.compute(work, threads=2)
        assert run.table()["i"].to_pylist() == list(range(9))


def test_a_failure_ends_the_other_threads_after_their_batch(tmp_path: Path) -> None:
    both, computed = threading.Barrier(2, timeout=60), []

    def work(batch: Batch) -> list[dict]:
        if batch.start == 0:
            both.wait()
        if batch.part == "second":
            raise ZeroDivisionError
        time.sleep(0.1)
        computed.append(batch.number)
        return []

    plan = Plan([Part("first", 50, 1), Part("second", 1, 1)])
    with pytest.raises(ZeroDivisionError), Run.open(tmp_path / "run", "work", {}, plan) as run:
        run.compute(work, threads=2)
    assert len(computed) < 5


def test_a_folder_cannot_be_opened_twice_in_one_process(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        fill(run)
        with pytest.raises(R2T2Error, match="in use by process"):
            begin(tmp_path / "run")


def test_a_summary_with_nan_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        fill(run)
        with pytest.raises(ValueError, match="JSON compliant"):
            run.finish({"accuracy": float("nan")})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "batches",
        "run.json",
        "timings.jsonl",
    ]


def test_a_batch_is_one_parquet_file_named_by_its_number(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        fill(run)
    names = [path.name for path in saved_batches(tmp_path / "run").values()]
    assert names == ["00000.parquet", "00001.parquet", "00002.parquet", "00003.parquet"]
    assert pq.read_table(tmp_path / "run" / "batches" / "00001.parquet").to_pylist() == [
        {"part": "a", "sample": 2},
        {"part": "a", "sample": 3},
    ]


def test_a_run_in_the_former_format_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "shard-00000.rows").write_bytes(b"R2T2")
    (tmp_path / "run.json").write_text("{}")
    for open_it in (lambda: begin(tmp_path), lambda: open_run(tmp_path)):
        with pytest.raises(R2T2Error, match=r"holds a run in the former format \(shard-00000.rows\)"):
            open_it()


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(R2T2Error, match="enough"), begin(out) as run:
        fill(run, stop_after=1)
    (out / ".draft-1-summary.json").write_text("{")
    (out / ".draft-1-bank").mkdir()
    with (out / "timings.jsonl").open("a") as file:
        file.write('{"part": "a", "sam')
    with begin(out) as run:
        fill(run)
        run.finish({"n": np.int64(7).item()})
        assert run.seconds_per_sample().keys() == {"a", "b"}
    assert not list(out.glob(".draft*"))
    assert json.loads((out / "summary.json").read_text()) == {"n": 7}


def test_the_length_of_a_batch_is_its_number_of_samples() -> None:
    assert len(Batch(0, "a", 4, 7)) == 3


class Killed(BaseException):
    """Ends an extension where a kill would."""


def complete(run: Run) -> None:
    fill(run)
    run.export()
    run.finish({"n": 7})


def adds_letters(saved: dict, requested: dict) -> bool:
    return saved["settings"]["letters"] < requested["settings"]["letters"]


@pytest.mark.parametrize(
    ("name", "call", "complete_run_is_left"),
    [
        ("publish_json", 1, True),  # the copy of the complete run's run.json
        ("os.rename", 1, True),
        ("publish_json", 2, True),
        ("remove", 1, False),  # the summary of the complete run
        ("remove", 2, False),
    ],
)
def test_an_extension_killed_at_its_beginning_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int, complete_run_is_left: bool
) -> None:
    out, one, two = tmp_path / "run", {"letters": "a"}, {"letters": "ab"}
    with begin(out, one) as run:
        complete(run)
    with monkeypatch.context() as patch, begin(out, two, extends=adds_letters) as run:
        assert run.todo(["a", "b"]) and not run.complete
        module, function = ("r2t2_jax.runs.batch_files", name) if "." in name else ("r2t2_jax.runs.run", name)
        original, calls = operator.attrgetter(function)(importlib.import_module(module)), []

        def kill(*arguments):
            calls.append(arguments)
            if len(calls) == call:
                raise Killed
            return original(*arguments)

        patch.setattr(f"{module}.{function}", kill)
        with pytest.raises(Killed):
            run.append(PLAN.batches[0], [{"sample": 0}])
    with begin(out, one if complete_run_is_left else two, extends=adds_letters) as run:
        assert run.complete is complete_run_is_left
        assert not (out / "batches" / "run.json").exists()
    with begin(out, two, extends=adds_letters) as run:
        assert run.earlier_rows(PLAN.batches[1]).to_pylist() == [{"part": "a", "sample": 2}, {"part": "a", "sample": 3}]
        complete(run)
        assert run.complete and not (out / "earlier").exists()
    assert sorted(path.name for path in out.iterdir()) == [
        "batches",
        "rows.parquet",
        "run.json",
        "summary.json",
        "timings.jsonl",
    ]


def test_what_a_killed_process_left_of_a_complete_extension_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with begin(out, {"letters": "ab"}) as run:
        complete(run)
    shutil.copytree(out / "batches", out / "earlier")
    (out / "earlier" / "run.json").write_text('{"settings": {"letters": "a"}}')
    with begin(out, {"letters": "ab"}) as run:
        assert run.complete and not (out / "earlier").exists()
