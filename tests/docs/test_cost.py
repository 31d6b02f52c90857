"""The page on costs has the numbers of `benchmarks/results/cost.json`, which are those counted today."""

import json
from pathlib import Path

import pytest

from benchmarks.cost import MODELS, bullets
from r2t2_jax.costs.ladder import CostSettings, cost_record, cost_table
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
    for variant in RECORDED[name]["ngd"]:
        assert f"- {variant['method']}: {variant['about']}\n" in table
    assert f"from {RECORDED[name]['atlas_offline']['break_even']:,} samples on" in table


def test_the_page_has_a_sentence_on_every_row_of_the_paper():
    assert bullets(paper_lines()) in PAGE


@pytest.mark.parametrize(
    "name", [name if name == "pocket" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_the_recorded_numbers_are_counted_today(name):
    assert cost_record(cost_table(load_shapes(MODELS[name]), CostSettings())) == RECORDED[name]


def test_the_cheapest_descent_of_moai_costs_at_most_65_times_the_base():
    assert RECORDED["moai"]["ngd"][-1]["times_base"] <= 65
