"""The tables of docs/bank.md are what `benchmarks/retrieval.py` recorded."""

from pathlib import Path

import pytest

from benchmarks.retrieval import PAGE, RESULTS, page_tables, pays_from

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_what_was_recorded() -> None:
    assert page_tables(RESULTS) in TEXT


@pytest.mark.parametrize(
    ("scann", "told"),
    [
        ({"build_seconds": 11.0, "queries_per_second": 1000.0}, "1,111"),  # ten seconds more, nine milliseconds less
        ({"build_seconds": 11.0, "queries_per_second": 50.0}, "never"),
        ({"left_out": "not installed"}, "unknown"),
    ],
)
def test_from_how_many_questions_building_pays(scann: dict, told: str) -> None:
    exact = {"build_seconds": 1.0, "queries_per_second": 100.0}
    assert pays_from({"exact": exact, "scann": scann}) == told


def test_the_picture_is_there() -> None:
    assert Path(RESULTS / "retrieval.png").exists()
