"""The tables of docs/bank.md equal the recorded numbers of `benchmarks/retrieval.py`."""

import json
from pathlib import Path

import pytest

from benchmarks import bank_rates
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


def test_the_table_of_rates_equals_the_recorded_numbers() -> None:
    recorded = json.loads(bank_rates.RESULTS.read_text(encoding="utf-8")) if bank_rates.RESULTS.exists() else None
    table = "" if recorded is None else bank_rates.page_table(recorded)
    assert f"<!-- rates -->\n{table}<!-- /rates -->\n" in TEXT


def test_rates_are_those_of_the_further_references() -> None:
    least, most = bank_rates.Usage(3.0, 4.0, 500.0), bank_rates.Usage(5.0, 8.0, 700.0)
    assert bank_rates.rates(least, most, 200, 1000) == {
        "whole_references_per_second": 200.0,
        "references_per_second": 400.0,
        "references_per_processor_second": 200.0,
        "memory_mib": 700,
    }
