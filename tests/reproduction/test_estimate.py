"""What a reproduction would take, counted at a model's full shapes."""

import pytest

from r2t2_jax.plugins import load_shapes
from r2t2_jax.reproduction.estimate import estimate, estimate_markdown, set_sizes
from r2t2_jax.reproduction.spec import choose_tables


def test_the_papers_benchmarks_are_as_large_as_its_table_1_says() -> None:
    sizes = set_sizes()
    assert sum(sizes.values()) == 2374 + 2114 + 2638 + 1590 + 2017 + 3087 + 2093 + 5734


def test_evaluations_of_the_methods_by_hand() -> None:
    found = estimate(load_shapes("pocket:narrow"), choose_tables("table2"), 10)
    evaluations = {label: cost.evaluations for label, cost in found.costs.items()}
    assert evaluations["base"] == 1
    assert evaluations["ngd"] == 1 + 2 * 10 * 5 + 1
    assert evaluations["kernel_regression_alpha"] == 1 + 10 * 5 + 1
    assert evaluations["oracle"] == 1 + 2 * 10 + 1
    assert found.flops == 10 * sum(cost.flops for cost in found.costs.values() if cost.flops)
    assert not found.untraced


def test_more_steps_and_more_neighbours_cost_in_proportion() -> None:
    shapes = load_shapes("pocket:narrow")
    steps = {label: cost.flops for label, cost in estimate(shapes, choose_tables("table8"), 1).costs.items()}
    ten, fifty = steps["table8/paper/10"] - steps["base"], steps["table8/paper/50"] - steps["base"]
    assert fifty == pytest.approx(5 * ten, rel=1e-3)  # the router's own pass does not grow
    near = {label: cost.flops for label, cost in estimate(shapes, choose_tables("table5"), 1).costs.items()}
    assert near["table5/paper/k 20"] - near["base"] == pytest.approx(
        4 * (near["table5/paper/k 5"] - near["base"]), rel=1e-3
    )


def test_rivals_which_are_not_one_program_are_named() -> None:
    tables = choose_tables("sensitivity_quality") + choose_tables("table6")
    told = estimate_markdown("pocket", estimate(load_shapes("pocket:narrow"), tables, 100), tables)
    assert "100 questions" in told
    assert "| table6 | 5 |" in told


@pytest.mark.slow
@pytest.mark.parametrize("model", ["moai:7b", "mova:8b"])
def test_the_papers_models_at_full_shapes(model: str) -> None:
    found = estimate(load_shapes(model), choose_tables("table8"), 100)
    assert not found.untraced
    base, paper = found.costs["base"], found.costs["table8/paper/10"]
    assert base.flops is not None and paper.flops is not None
    assert base.flops > 1e13  # a pass of seven billion parameters over a thousand tokens
    assert paper.flops > 20 * base.flops
