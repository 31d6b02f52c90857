"""Accuracy against cost: markers, ticks, and labels that do not overlap."""

from types import SimpleNamespace

import pytest

from r2t2_jax.reporting.figures.cost import cost_figure, scatter, spread
from r2t2_jax.reporting.style import shared_style

POINTS = {"base": (1.0, 50.0), "ngd": (102.0, 88.0), "atlas": (2.0, 96.0)}


@pytest.mark.parametrize("narrow", [False, True])
def test_a_strategy_without_cost_is_left_of_all_others_at_a_tick_labeled_zero(narrow: bool) -> None:
    with shared_style():
        figure = scatter(POINTS | {"neighbor_vote": (0.0, 30.0)}, narrow, "evaluations")
        figure.draw_without_rendering()  # warnings are errors here
    (axes,) = figure.axes
    marks = sorted((float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines if line.zorder == 3)
    assert [y for _, y in marks] == [30.0, 50.0, 96.0, 88.0]
    assert 0 < marks[0][0] < 1
    ticks = dict(zip((label.get_text() for label in axes.get_xticklabels()), axes.get_xticks(), strict=True))
    assert ticks["0"] == marks[0][0]
    assert axes.get_xlim()[0] < marks[0][0]


def test_without_such_a_strategy_the_axis_has_no_zero() -> None:
    with shared_style():
        figure = scatter(POINTS, False, "evaluations")
    assert "0" not in [label.get_text() for label in figure.axes[0].get_xticklabels()]


def test_labels_that_would_overlap_are_spread_around_their_mean() -> None:
    assert spread({"a": 10.0, "b": 11.0, "c": 50.0}, 5.0) == {"a": 8.0, "b": 13.0, "c": 50.0}


@pytest.mark.parametrize(
    ("accuracies", "sentence"),
    [
        ({"base": 0.5, "uniform": 0.9, "ngd": 0.7, "oracle": 0.95}, "The best re-routing method, ngd, answers 70.0 %"),
        ({"base": 0.5, "uniform": 0.9, "ngd": 0.4}, "No re-routing method is more accurate than the unmodified model"),
        ({"base": 0.5, "uniform": 0.9}, "The run has no re-routing method."),
    ],
)
def test_the_text_is_about_methods_not_controls(accuracies: dict[str, float], sentence: str) -> None:
    rows = {
        name: {"accuracy": accuracy, "evaluations_per_sample": 1 if name == "base" else 102}
        for name, accuracy in accuracies.items()
    }
    text = cost_figure(SimpleNamespace(name="toy", summary={"strategies": rows})).text
    assert sentence in text and "1 evaluations" not in text
