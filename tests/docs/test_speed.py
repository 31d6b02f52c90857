"""The page on speed says what `benchmarks/results/speed.json` says, and its numbers hang together."""

import json
from pathlib import Path

import pytest

from benchmarks.speed import PAGE, RESULTS, devices_table, page_tables

ROOT = Path(__file__).parents[2]
TEXT = PAGE.read_text(encoding="utf-8")
RECORDED = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_tables_are_what_was_recorded():
    assert f"<!-- results -->\n{page_tables(RECORDED)}<!-- /results -->\n" in TEXT


@pytest.mark.parametrize("load", [0.1, 6.0])
def test_a_busy_machine_is_told(load):
    assert ("not to be quoted" in page_tables({**RECORDED, "load_before": load})) == (load > 1)


def test_times_lie_between_their_quartiles():
    found = [one for threads in RECORDED["beside"].values() for side in threads.values() for one in side.values()]
    assert len(found) >= 12
    for one in found:
        assert 0 < one["low"] <= one["seconds_a_case"] <= one["high"]


def test_speed_up_over_devices_by_hand():
    def seconds(value):
        return {"low": value, "seconds_a_case": value, "high": value}

    table = devices_table({"1": seconds(0.012), "2": seconds(0.008), "4": seconds(0.008)}, cores=2)
    assert "| 2 | 8 (8 to 8) | 1.50 | 75 % |" in table
    assert "| 4 | 8 (8 to 8) | 1.50 | 75 % |" in table


def test_every_file_named_is_there():
    for name in ("benchmarks/accelerator.py", "tests/ports/pocket/test_torch_pocket.py"):
        assert name in TEXT
        assert (ROOT / name).exists()
