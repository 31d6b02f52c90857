"""The tables of docs/cost.md equal `benchmarks/results/cost.json`, which equals the current count."""

import json
from pathlib import Path

import pytest

from benchmarks.cost import MODELS, bullets
from r2t2_jax.costs.ladder import Scale, ledger, ledger_record
from r2t2_jax.plugins import load_shapes
from r2t2_jax.reporting.costs import paper_lines

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
RECORDED = json.loads((ROOT / "benchmarks" / "results" / "cost.json").read_text(encoding="utf-8"))["models"]


@pytest.mark.parametrize("name", MODELS)
def test_the_page_has_every_recorded_row(name):
    table = PAGE.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
    base = RECORDED[name]["methods"][0]["flops"]
    for row in (*RECORDED[name]["methods"], *RECORDED[name]["ngd"]):
        assert f"| {row['flops'] / base:,.2f} |" in table, row["method"]
    for rung in RECORDED[name]["ngd"]:
        assert f"- {rung['method']}: {rung['about']}\n" in table
    assert f"after {RECORDED[name]['atlas_offline']['break_even']:,} cases" in table


def test_the_page_has_a_sentence_on_every_row_of_the_paper():
    assert bullets(paper_lines()) in PAGE


@pytest.mark.parametrize(
    "name", [name if name == "pocket" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_the_recorded_numbers_equal_the_current_count(name):
    assert ledger_record(ledger(load_shapes(MODELS[name]), Scale())) == RECORDED[name]


def test_moai_stays_within_its_bound():
    assert RECORDED["moai"]["ngd"][-1]["times_base"] <= 65
