"""`r2t2 eval` in a process that is killed at random moments, and on several devices."""

import os
import random
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


def results(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("summary.json", "rows.parquet")}


@pytest.mark.slow
def test_twenty_kills_change_nothing(files: Path, whole: Path, tmp_path: Path) -> None:
    out, rng, kills = tmp_path / "run", random.Random(9), 0
    batches = 1 + 8 + 2
    while kills < 20:
        process = start(files, out, seconds=0.05)
        wanted = rng.randrange(0, batches)
        while len(saved_batches(out)) < wanted and process.poll() is None and not (out / "summary.json").exists():
            time.sleep(0.002)
        time.sleep(0.3 * rng.random())
        process.kill()
        process.communicate()
        kills += 1
        if (out / "summary.json").exists():
            assert results(out)["summary.json"] == results(whole)["summary.json"]
            out = tmp_path / f"run{kills}"  # this run is complete; begin another
    process = start(files, out)
    assert process.communicate(timeout=300) and process.returncode == 0
    assert results(out) == results(whole)


def test_meshes_that_do_not_fit_are_refused(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from r2t2_jax.cli.main import main

    for more, cause in (
        (("--mesh", "rows=2"), "'rows=2' is not a mesh"),
        (("--mesh", "data=9"), "the mesh data=9 needs 9 devices, and there are 4"),
        (("--mesh", "data=1,model=2"), "the weights of tests.toy_port cannot be sharded over several devices"),
    ):
        assert main(arguments(files, tmp_path / "run", *more)) == 2
        assert cause in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_copies_on_four_devices_give_what_one_gives(files: Path, whole: Path, tmp_path: Path) -> None:
    from r2t2_jax.cli.main import main

    assert main(arguments(files, tmp_path / "run", "--mesh", "data=4")) == 0
    assert results(tmp_path / "run") == results(whole)
    rows = open_run(tmp_path / "run").rows
    assert rows.num_rows == 4 * 37 and np.isfinite(rows["score"].to_numpy()).all()
