"""`r2t2 demo` with the shipped weights: re-routing must clearly help the narrow gate."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.runs.batch_files import saved_batches
from r2t2_jax.runs.reading import open_run


@pytest.mark.slow  # compiles every strategy for two gates
def test_the_narrow_gate_gains_and_the_balanced_gate_loses_nothing(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path / "run"), "--quick", "--samples", "40", "--seed", "1"]) == 0
    rows = open_run(tmp_path / "run").rows
    assert not any(rows["step_predictions"].to_pylist() + rows["own_losses"].to_pylist())  # too slow for --quick
    models = json.loads((tmp_path / "run" / "summary.json").read_text())["models"]
    narrow = {name: row["accuracy"] for name, row in models["pocket:narrow"]["strategies"].items()}
    assert narrow["task_routing"] >= narrow["base"] + 0.2
    assert narrow["ngd"] >= narrow["base"] + 0.1
    assert narrow["ngd"] >= narrow["random_neighbors"] + 0.1
    balanced = models["pocket:balanced"]["strategies"]
    assert balanced["ngd"]["ci95"][1] >= balanced["base"]["accuracy"]


@pytest.mark.slow
def test_a_demo_that_is_killed_several_times_ends_with_the_same_bytes(tmp_path: Path) -> None:
    options = ["--quick", "--samples", "20", "--seed", "2"]
    assert main(["demo", "--out", str(tmp_path / "whole"), *options]) == 0
    folder = tmp_path / "killed"
    for batches in (3, 9, 16):
        command = [sys.executable, "-m", "r2t2_jax.cli.main", "demo", "--out", str(folder), *options]
        with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            while len(saved_batches(folder)) < batches:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.01)
            process.kill()
        assert batches <= len(saved_batches(folder)) < 22
        assert not (folder / "summary.json").exists()
    saved = saved_batches(folder)
    assert main(["demo", "--out", str(folder), *options]) == 0
    assert saved_batches(folder).items() >= saved.items()
    assert (folder / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
