"""The tables of docs/bank.md equal the recorded numbers of `benchmarks/retrieval.py`."""

from pathlib import Path

import pytest

from benchmarks.retrieval import PAGE, RESULTS, break_even_questions, page_tables

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_equal_the_recorded_numbers() -> None:
    assert page_tables(RESULTS) in TEXT


@pytest.mark.parametrize(
    ("scann", "text"),
    [
        ({"build_seconds": 11.0, "queries_per_second": 1000.0}, "1,111"),  # build + 10 s, query - 9 ms
        ({"build_seconds": 11.0, "queries_per_second": 50.0}, "never"),
        ({"left_out": "not installed"}, "unknown"),
    ],
)
def test_the_number_of_questions_from_which_scann_is_faster(scann: dict, text: str) -> None:
    exact = {"build_seconds": 1.0, "queries_per_second": 100.0}
    assert break_even_questions({"exact": exact, "scann": scann}) == text


def test_the_figure_exists() -> None:
    assert Path(RESULTS / "retrieval.png").exists()
