"""The predicted cost of a reproduction, counted at a model's full shapes."""

import pytest

from r2t2_jax.plugins import load_shapes
from r2t2_jax.reproduction.estimate import estimate, estimate_markdown, set_sizes
from r2t2_jax.reproduction.spec import choose_tables


def test_the_sizes_of_benchmarks_are_those_of_the_papers_table_1() -> None:
    sizes = set_sizes()
    assert sum(sizes.values()) == 2374 + 2114 + 2638 + 1590 + 2017 + 3087 + 2093 + 5734


def test_the_evaluations_of_each_method() -> None:
    estimated = estimate(load_shapes("pocket:narrow"), choose_tables("table2"), 10)
    evaluations = {label: cost.evaluations for label, cost in estimated.costs.items()}
    assert evaluations["base"] == 1
    assert evaluations["ngd"] == 1 + 2 * 10 * 5 + 1
    assert evaluations["kernel_regression_alpha"] == 1 + 10 * 5 + 1
    assert evaluations["oracle"] == 1 + 2 * 10 + 1
    assert estimated.flops == 10 * sum(cost.flops for cost in estimated.costs.values() if cost.flops)
    assert not estimated.untraced


def test_the_cost_is_proportional_to_steps_and_neighbors() -> None:
    shapes = load_shapes("pocket:narrow")
    steps = {label: cost.flops for label, cost in estimate(shapes, choose_tables("table8"), 1).costs.items()}
    ten, fifty = steps["table8/paper/10"] - steps["base"], steps["table8/paper/50"] - steps["base"]
    assert fifty == pytest.approx(5 * ten, rel=1e-3)  # the router's own pass does not grow
    near = {label: cost.flops for label, cost in estimate(shapes, choose_tables("table5"), 1).costs.items()}
    assert near["table5/paper/k 20"] - near["base"] == pytest.approx(
        4 * (near["table5/paper/k 5"] - near["base"]), rel=1e-3
    )


def test_the_dry_run_states_questions_and_rows() -> None:
    tables = choose_tables("sensitivity_quality") + choose_tables("table6")
    text = estimate_markdown("pocket", estimate(load_shapes("pocket:narrow"), tables, 100), tables)
    assert "100 questions" in text
    assert "| table6 | 5 |" in text


@pytest.mark.slow
@pytest.mark.parametrize("model", ["moai:7b", "mova:8b"])
def test_the_papers_models_at_full_shapes(model: str) -> None:
    estimated = estimate(load_shapes(model), choose_tables("table8"), 100)
    assert not estimated.untraced
    base, paper = estimated.costs["base"], estimated.costs["table8/paper/10"]
    assert base.flops is not None and paper.flops is not None
    assert base.flops > 1e13  # a pass of seven billion parameters over a thousand tokens
    assert paper.flops > 20 * base.flops
