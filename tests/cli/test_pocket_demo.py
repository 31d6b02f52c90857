"""`r2t2 demo` with the weights that ship: re-routing must visibly help where the gate is narrow."""

import json
from pathlib import Path

from r2t2_jax.cli.main import main


def test_the_narrow_gate_gains_and_the_balanced_one_is_not_harmed(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path / "run"), "--quick", "--samples", "80", "--seed", "1"]) == 0
    gates = json.loads((tmp_path / "run" / "summary.json").read_text())["gates"]
    narrow = {name: row["accuracy"] for name, row in gates["narrow"]["strategies"].items()}
    assert narrow["task_routing"] >= narrow["base"] + 0.2
    assert narrow["ngd"] >= narrow["base"] + 0.1
    assert narrow["ngd"] >= narrow["random_neighbors"] + 0.1
    balanced = gates["balanced"]["strategies"]
    assert balanced["ngd"]["ci95"][1] >= balanced["base"]["accuracy"]
