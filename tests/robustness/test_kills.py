"""A process that is killed at any rename or fsync leaves the earlier content or the new one, and the next cleans up."""

import json
import multiprocessing
import os
import re
import signal
from pathlib import Path

import pytest

from r2t2_jax.cli.main import Terminated
from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval import check_index_folder
from r2t2_jax.runs import atomic_io
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.run import Run
from tests.robustness.writers import TARGET, WRITERS, write_and_die

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.robustness.writers"])
LOCK = "lock"  # a killed run keeps its lock file; the lock itself is gone


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder that is not a draft; timings differ between equal runs.

    The files of a model have random names: they are compared with the sizes that `model.json` lists.
    """
    model = folder / TARGET / "model.json"
    if model.exists():
        sizes = json.loads(model.read_text())["checkpoint"]
        whole = {name: (model.parent / "checkpoint" / name).stat().st_size for name in sizes} == sizes
        return {TARGET: b"whole" if whole else b"damaged"}
    files = [path for path in folder.rglob("*") if path.is_file() and ".draft-" not in str(path)]
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in (LOCK, "timings.jsonl")
    }


def by_target(files: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    """The files of each path that is published with one rename."""
    targets: dict[str, dict[str, bytes]] = {}
    for name, value in files.items():
        targets.setdefault(name.split("/")[0], {})[name] = value
    return targets


def kill_at_every_call(name: str, folder: Path, exchange: bool) -> int:
    """Kill a writer at every call; returns the number of kills."""
    write, whole = WRITERS[name], folder / "whole"
    whole.mkdir(parents=True)
    write(whole, 1)
    new = content(whole)
    last = 0
    while True:
        last += 1
        place = folder / str(last)
        place.mkdir()
        write(place, 0)
        old = content(place)
        process = CONTEXT.Process(target=write_and_die, args=(name, str(place), last, exchange))
        process.start()
        process.join()
        if process.exitcode == 0:
            assert content(place) == new
            return last - 1
        assert process.exitcode == -signal.SIGKILL
        if exchange and name not in ("run", "recording"):  # these folders are whole when their summary exists
            for target, files in by_target(content(place)).items():
                assert files in (by_target(old).get(target), by_target(new).get(target))
            assert set(by_target(old)) <= set(by_target(content(place)))
        write(place, 1)
        assert content(place) == new
        assert not [path for path in place.rglob("*") if atomic_io.is_draft(path.name)]


@pytest.mark.parametrize("name", ["file", "bank", "atlas", "report", "export"])
def test_a_kill_at_any_rename_or_fsync_leaves_one_whole_version(name: str, tmp_path: Path) -> None:
    assert kill_at_every_call(name, tmp_path / "exchange", exchange=True) >= 3


@pytest.mark.slow  # the model directory has tens of files, and a run is synced after every step
@pytest.mark.parametrize("name", ["model", "run", "recording", "map"])
def test_a_kill_during_long_work_leaves_one_whole_version(name: str, tmp_path: Path) -> None:
    assert kill_at_every_call(name, tmp_path / "exchange", exchange=True) >= 3


def test_where_names_cannot_be_exchanged_the_next_process_restores_the_earlier_content(tmp_path: Path) -> None:
    assert kill_at_every_call("atlas", tmp_path / "rename", exchange=False) >= 3


def test_a_draft_that_another_process_writes_stays(tmp_path: Path) -> None:
    def write(draft: Path) -> None:
        atomic_io.atomic_write(tmp_path / "other", lambda second: second.write_text("other"))
        draft.write_text("first")

    atomic_io.atomic_write(tmp_path / "file", write)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "first", "other": "other"}


@pytest.mark.parametrize("name", [".draft-2024-thesis.tex", ".draft-banker", ".draft-rows.parquet.bak", "locksmith"])
def test_files_of_the_user_are_no_drafts(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    atomic_io.atomic_write(tmp_path / "file", lambda draft: draft.write_text("x"))
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / "file").unlink()
    plan = Plan([Part("a", samples=1, batch=1)])
    with pytest.raises(R2T2Error, match=f"holds '{re.escape(name)}', which is not part of a run"):
        Run.open(tmp_path, "eval", {}, plan)
    with Run.open(tmp_path / "run", "eval", {}, plan) as run:
        run.append(plan.batches[0], [{"id": "a"}])
    (tmp_path / name).rename(tmp_path / "run" / name)
    with Run.open(tmp_path / "run", "eval", {}, plan) as run:
        run.finish({})
    assert (tmp_path / "run" / name).read_text() == "mine"


def test_a_file_of_the_user_that_is_named_as_a_lock_stays(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("the number of my lock")
    with pytest.raises(R2T2Error, match="holds 'lock', which is not part of a run"):
        Run.open(tmp_path, "eval", {}, Plan([Part("a", samples=1, batch=1)]))
    assert (tmp_path / "lock").read_text() == "the number of my lock"


def test_an_extension_of_a_run_keeps_files_of_the_user(tmp_path: Path) -> None:
    plan = Plan([Part("a", samples=1, batch=1)])
    for settings in ({"version": 0}, {"version": 1}):
        with Run.open(tmp_path, "eval", settings, plan, extends=lambda saved, requested: True) as run:
            run.append(plan.batches[0], [{"id": "a"}])
            run.export()
            run.finish({})
        (tmp_path / "notes.parquet").write_text("mine")
    assert (tmp_path / "notes.parquet").read_text() == "mine"


@pytest.mark.parametrize("kind", ["report", "bank", "atlas", "index", "map"])
@pytest.mark.parametrize("name", ["thesis.tex", "sub/thesis.tex", ".draft-2024-thesis.tex", "replaced/thesis.tex"])
def test_a_folder_with_a_file_of_the_user_is_not_replaced(kind: str, name: str, tmp_path: Path) -> None:
    def write() -> None:
        if kind == "index":
            check_index_folder(tmp_path / TARGET)
        else:
            WRITERS[kind](tmp_path, 1)

    if kind == "index":
        (tmp_path / TARGET).mkdir()
        (tmp_path / TARGET / "index.json").write_text("{}")
    else:
        WRITERS[kind](tmp_path, 0)
    entry = sorted(path.name for path in (tmp_path / TARGET).iterdir() if path.is_file())[0]
    path = tmp_path / TARGET / name.replace("replaced", entry)
    if "replaced" in name:  # a folder in place of a file
        (tmp_path / TARGET / entry).unlink()
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(R2T2Error):
        write()
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("kind", "name"), [("map", "experts.csv"), ("atlas", "points.npy"), ("bank", "routing.npy")])
def test_a_file_of_a_usual_name_does_not_make_a_folder_ours(kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / TARGET).mkdir()
    (tmp_path / TARGET / name).write_text("mine")
    with pytest.raises(R2T2Error, match="choose another"):
        WRITERS[kind](tmp_path, 1)
    assert (tmp_path / TARGET / name).read_text() == "mine"


def test_a_failure_leaves_the_earlier_file_and_no_new_folder(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("earlier")

    def fail(draft: Path) -> None:
        draft.write_text("half")
        raise OSError(28, "No space left on device")

    for path in (tmp_path / "page.html", tmp_path / "a" / "b" / "page.html"):
        with pytest.raises(OSError, match="No space left on device") as error:
            atomic_io.atomic_write(path, fail)
        assert error.value.filename == str(path)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "earlier"


def test_sigterm_during_a_write_leaves_no_draft(tmp_path: Path) -> None:
    def stop(draft: Path) -> None:
        (draft / "half").write_text("x")
        raise Terminated

    with pytest.raises(Terminated):
        atomic_io.atomic_folder(tmp_path / "a" / "model", stop)
    assert not list(tmp_path.iterdir())


def test_a_run_that_saved_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a" / "b" / "run", "eval", {}, Plan([Part("a", samples=1, batch=1)])):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "device"])
def test_what_is_no_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "target"
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(ValueError, match="cannot write"):
        atomic_io.atomic_write(path, lambda draft: draft.write_text("x"))
    assert path.exists() and not path.is_file()


def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    atomic_io.atomic_folder(tmp_path / "link", lambda draft: (draft / "new").write_text("x"))
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["new"]


def test_names_of_any_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    atomic_io.atomic_write(path, lambda draft: draft.write_text("x"))
    assert path.read_text() == "x"
