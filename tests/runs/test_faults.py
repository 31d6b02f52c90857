"""A run in its own process that is killed, stopped by a signal, locked out, or out of disk space."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.batch_files import saved_batches
from r2t2_jax.runs.run import Run
from tests.runs import worker

BATCHES = len(worker.PLAN.batches)
SLOW = "0.05"  # seconds per batch, long enough to interrupt one


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole") / "run"
    worker.main(str(folder))
    return (folder / "summary.json").read_bytes()


@contextmanager
def running(folder: Path, batches: int) -> Iterator[subprocess.Popen[str]]:
    """Start a worker and wait until it has saved at least `batches` batches."""
    command = [sys.executable, "-m", "tests.runs.worker", str(folder), SLOW]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while len(saved_batches(folder)) < batches:
            assert process.poll() is None
            time.sleep(0.002)
        yield process


def test_twenty_kills_change_nothing(tmp_path: Path, expected: bytes) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs.worker"])
    rng = random.Random(20)
    kills = 0
    while kills < 20:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        process = context.Process(target=worker.main, args=(str(folder), "0.01"))
        process.start()
        target = rng.randrange(1, BATCHES)
        while len(saved_batches(folder)) < target and process.is_alive():
            time.sleep(0.001)
        time.sleep(0.01 * rng.random())
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        saved = saved_batches(folder)
        if not 0 < len(saved) < BATCHES:
            continue  # too late
        kills += 1
        assert not (folder / "summary.json").exists()
        assert (folder / "lock").exists()  # held by the dead process
        worker.main(str(folder))
        assert saved_batches(folder).items() >= saved.items()  # saved rows stay at the same place
        assert (folder / "summary.json").read_bytes() == expected
        assert not (folder / "lock").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_run_after_the_batch_and_prints_the_command_to_resume(
    tmp_path: Path, expected: bytes, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    with running(folder, batches=2) as process:
        process.send_signal(number)
        _, output = process.communicate()
    assert process.returncode == 0
    saved = saved_batches(folder)
    assert 2 <= len(saved) < BATCHES
    assert (
        output.splitlines()[-1]
        .strip()
        .endswith(
            f"{number.name}: stopped after {len(saved)} of {BATCHES} batches. "
            f"Resume with: r2t2 work --config {folder}/run.json --out {folder}"
        )
    )
    worker.main(str(folder))
    assert (folder / "summary.json").read_bytes() == expected


def test_a_second_process_is_refused_and_names_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with running(folder, batches=1) as process:
        with pytest.raises(R2T2Error, match=rf"{folder} is in use by process {process.pid} on \S+ since 2\d{{3}}-"):
            worker.main(str(folder))
        process.kill()
    worker.main(str(folder))


def test_a_full_disk_keeps_what_was_saved(tmp_path: Path, expected: bytes) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    worker.main(str(whole))
    sizes = [path.stat().st_size for path in saved_batches(whole).values()]
    limit = max(sizes[:8]) + 1  # later batches have more words
    assert limit < max(sizes)
    limited = (
        f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "runpy.run_module('tests.runs.worker', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", limited, str(folder)], stderr=subprocess.PIPE, text=True)
    saved = saved_batches(folder)
    assert result.returncode == 2
    assert f"{len(saved)} of {BATCHES} batches stay saved" in result.stderr.splitlines()[-1]
    assert "File too large" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert 0 < len(saved) < BATCHES
    worker.main(str(folder))
    assert (folder / "summary.json").read_bytes() == expected


def test_the_second_signal_interrupts_immediately(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Run.open(tmp_path / "run", "work", {}, worker.PLAN) as run:
        run.append(next(iter(run.missing())), [{"sample": 1}])
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert len(saved_batches(tmp_path / "run")) == 1
    assert signal.getsignal(signal.SIGTERM) is before
