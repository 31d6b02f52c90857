"""The table of docs/routes.md equals `benchmarks/results/routes.json`, and recording is as cheap as the page says."""

import json

from benchmarks.routes import MODELS, PAGE, RESULTS, page_table

TEXT = PAGE.read_text(encoding="utf-8")
RECORDED = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_table_equals_the_recorded_numbers():
    assert f"<!-- results -->\n{page_table(RECORDED)}<!-- /results -->\n" in TEXT
    assert tuple(RECORDED["models"]) == MODELS


def test_recording_costs_at_most_a_tenth():
    assert all(numbers["ratio"] <= 1.1 for numbers in RECORDED["models"].values())


def test_a_busy_machine_is_reported():
    assert "under other load (3.0 processes)" in page_table({**RECORDED, "load_before": 3.0})
    assert "other load" not in page_table({**RECORDED, "load_before": 0.1})
