"""The programs of the strategies are those of `benchmarks/results/counts.json`, by counts that depend on no machine."""

import json
from typing import Any

import pytest

from benchmarks.counts import RESULTS, generation_counts, programs, strategy_counts
from r2t2_jax.methods import STRATEGIES

RECORDED = json.loads(RESULTS.read_text(encoding="utf-8"))
OFTEN_USED = ("ngd", "kernel_regression", "atlas")


def check(counts: dict[str, Any], recorded: dict[str, Any]) -> None:
    """FLOPs and passes are equal; versions of JAX trace some functions into a few operations more or less."""
    for name, row in counts.items():
        expected = recorded[name]
        for exact in row.keys() & {"flops", "evaluations"}:
            assert row[exact] == expected[exact], (name, exact)
        for close in ("operations", "bytes"):
            assert row[close] == pytest.approx(expected[close], rel=0.05), (name, close)


def test_strategies_that_differ_by_numbers_share_a_program() -> None:
    assert programs() == RECORDED["programs"], "after a change on purpose, python -m benchmarks.counts writes the file"


def test_counts_of_often_used_strategies_and_of_the_answer() -> None:
    check(strategy_counts(OFTEN_USED), RECORDED["strategies"])
    check(generation_counts(), RECORDED["generation"])


@pytest.mark.slow
def test_counts_of_all_strategies() -> None:
    check(strategy_counts(), RECORDED["strategies"])
    assert set(RECORDED["strategies"]) == set(STRATEGIES)
