"""The table of docs/atlas.md equals the recorded numbers, and its sentences agree with them."""

import json

from benchmarks.atlas_options import BASELINE, OPTIONS, PAGE, RESULTS, page_table

TEXT, RECORDED = PAGE.read_text(encoding="utf-8"), json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_table_equals_the_recorded_numbers() -> None:
    assert f"<!-- results -->\n{page_table(RECORDED)}<!-- /results -->\n" in TEXT
    for gate in RECORDED["gates"].values():
        assert gate["n"] >= 1000 and list(gate["options"]) == list(OPTIONS)


def test_cross_entropy_does_not_help_as_the_page_states() -> None:
    assert "On the pocket model cross-entropy does not help" in TEXT
    for gate in RECORDED["gates"].values():
        assert all(row["against_bounded"][1] <= 0 for name, row in gate["options"].items() if name != BASELINE)


def test_the_page_names_the_settings_of_the_preset() -> None:
    for setting in ("loss", "proximal_weight", "temperature", "min_gain"):
        assert f"`atlas.{setting}`" in TEXT
