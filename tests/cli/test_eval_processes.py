"""`r2t2 eval` in subprocesses: several share a run, and some are killed."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from r2t2_jax.runs.batch_files import saved_batches
from r2t2_jax.runs.reading import open_run
from tests.evaluation.toy_files import arguments

SLOW = ("--model", "tests.evaluation.slow_toy:slow")


def start(files: Path, out: Path, *more: str, seconds: float = 0.0) -> subprocess.Popen:
    """A process; `seconds` a batch."""
    environment = {**os.environ, "SLOW_TOY": str(seconds), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "r2t2_jax.cli.main", *arguments(files, out, *SLOW, *more)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_all(files: Path, out: Path, count: int, seconds: float = 0.0) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("--coordinator", address, "--processes", str(count), "--process")
    return [start(files, out, *options, str(index), seconds=seconds) for index in range(count)]


def finish_all(files: Path, out: Path) -> None:
    processes = start_all(files, out, 2)
    output = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output


def results(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("summary.json", "rows.parquet")}


def saved(out: Path) -> int:
    """Batches, of all processes."""
    return sum(len(saved_batches(place)) for place in (out, *out.glob("process-*/")))


def await_batches(out: Path, count: int, processes: list[subprocess.Popen]) -> None:
    while saved(out) < count:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_give_the_numbers_of_one(count: int, files: Path, whole: Path, tmp_path: Path) -> None:
    """To the byte: what a sample gets does not depend on who computes it."""
    for out in (tmp_path / "one", tmp_path / "two")[: 2 if count == 4 else 1]:
        processes = start_all(files, out, count)
        output = [process.communicate(timeout=300) for process in processes]
        assert [process.returncode for process in processes] == [0] * count, output
        assert sorted(path.name for path in out.iterdir()) == [
            *("batches", "rows.parquet", "run.json", "summary.json", "timings.jsonl")
        ]
        assert results(out) == results(whole)
        run = json.loads((out / "run.json").read_text())
        assert run["processes"] == count and run["versions"]["devices"] == f"{count} x cpu"


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_named_by_the_others_within_a_minute(
    victim: int, files: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    processes = start_all(files, out, 2, seconds=0.5)
    await_batches(out, 2, processes)
    processes[victim].kill()
    killed = time.monotonic()
    _, output = processes[1 - victim].communicate(timeout=120)
    assert time.monotonic() - killed < 60
    processes[victim].communicate()
    assert processes[1 - victim].returncode == 2
    last = output.strip().splitlines()[-1]
    assert re.search(
        rf"r2t2: process {victim} \(\d+ on .*\) sent no heartbeat for 20 seconds: it or its host died", last
    )
    assert not (out / "summary.json").exists()
    finish_all(files, out)
    assert results(out) == results(whole)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all(files: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = start_all(files, out, 2, seconds=0.5)
    await_batches(out, 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    output = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "process 1 (" in output[0] and "stopped" in output[0]
    assert f"Resume with: r2t2 eval --config {out}/run.json --out {out}" in " ".join(output[1].split())
    finish_all(files, out)
    assert results(out) == results(whole)


@pytest.mark.slow
def test_twenty_kills_change_no_result(files: Path, whole: Path, tmp_path: Path) -> None:
    out, rng, kills = tmp_path / "run", random.Random(9), 0
    batches = 1 + 8 + 2
    while kills < 20:
        process = start(files, out, seconds=0.05)
        wanted = rng.randrange(0, batches)
        while saved(out) < wanted and process.poll() is None and not (out / "summary.json").exists():
            time.sleep(0.002)
        time.sleep(0.3 * rng.random())
        process.kill()
        process.communicate()
        kills += 1
        if (out / "summary.json").exists():
            assert results(out)["summary.json"] == results(whole)["summary.json"]
            out = tmp_path / f"run{kills}"  # this one came through; begin another
    process = start(files, out)
    assert process.communicate(timeout=300) and process.returncode == 0
    assert results(out) == results(whole)


def test_contradictory_options_are_refused(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from r2t2_jax.cli.main import main

    for more, cause in (
        (("--processes", "2"), "several processes need the address of the first"),
        (("--coordinator", "127.0.0.1:1", "--processes", "2"), "also needs --processes (their number) and --process"),
        (("--coordinator", "127.0.0.1:1", "--processes", "2", "--process", "2"), "also needs --processes"),
        (("--mesh", "rows=2"), "'rows=2' is not a mesh"),
        (("--mesh", "data=9"), "the mesh data=9 needs 9 devices in each process, and there are 4"),
        (("--mesh", "data=1,model=2"), "the weights of tests.toy_port cannot be sharded over several devices"),
    ):
        assert main(arguments(files, tmp_path / "run", *more)) == 2
        assert cause in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_copies_on_four_devices_give_the_results_of_one(files: Path, whole: Path, tmp_path: Path) -> None:
    from r2t2_jax.cli.main import main

    assert main(arguments(files, tmp_path / "run", "--mesh", "data=4")) == 0
    assert results(tmp_path / "run") == results(whole)
    rows = open_run(tmp_path / "run").rows
    assert rows.num_rows == 4 * 37 and np.isfinite(rows["score"].to_numpy()).all()
