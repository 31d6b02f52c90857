"""Roles and descriptions of strategies, from the docstrings of their functions."""

from r2t2_jax.methods import METHODS
from r2t2_jax.reporting.roles import BOUND, CONTROL, METHOD, description, role, tag


def test_every_strategy_has_a_short_description() -> None:
    for name in METHODS:
        text = description(name)
        assert text is not None and 10 < len(text) < 100 and not text.endswith("."), name
        assert text[0].islower(), name


def test_controls_and_reference_points_are_marked_by_the_first_word_of_the_docstring() -> None:
    assert {name for name in METHODS if role(name) == BOUND} == {
        *("task_routing", "oracle", "oracle_permuted", "base_permuted"),
    }
    assert {name for name in METHODS if role(name) == CONTROL} == {
        *("base", "router_mean", "uniform", "random_neighbors", "shuffled_references"),
        *("best_fixed", "atlas_mlp", "atlas_taylor", "gate_finetuned", "neighbor_vote"),
    }
    assert role("ngd") == METHOD
    assert [tag(name) for name in ("oracle", "task_routing", "uniform", "ngd")] == [
        *("label-searched", "practical ceiling", "", ""),
    ]


def test_the_suffix_paper_keeps_the_role_and_unknown_strategies_are_methods() -> None:
    assert role("oracle_paper") == BOUND
    assert description("ngd_paper") == f"{description('ngd')}, with the paper's settings"
    assert (role("mine"), description("mine")) == (METHOD, None)
