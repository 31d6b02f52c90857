"""`r2t2 diagnose` with the weights that ship says of each gate what is true of it."""

import json
from pathlib import Path

import pytest

from r2t2_jax.cli.main import main


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "worse_than_none"), [("narrow", True), ("balanced", False)])
def test_both_gates_leave_a_gap_that_neighbors_close(gate: str, worse_than_none: bool, tmp_path: Path) -> None:
    out = tmp_path / "diagnosis.json"
    options = ["--model", f"pocket:{gate}", "--data", "pocket", "--limit", "100", "--out", str(out)]
    assert main(["diagnose", *options]) == 0
    record = json.loads(out.read_text())
    answers = {key: finding["answer"] for key, finding in record["findings"].items()}
    assert record["verdict"] == "helps"
    assert answers == {"gap": "yes", "recoverable": "yes", "uniform": "no", "predicts": "yes", "router": "no"}
    low, _ = record["findings"]["uniform"]["tests"]["uniform over base"]["ci95"]
    assert (low > 0) == worse_than_none  # the narrow gate does worse than equal weights
    low, high = record["findings"]["router"]["tests"]["routings better than the router's"]["ci95"]
    assert (low < 0.5 < high) == worse_than_none  # and picks no better than chance
