"""Accuracy against cost: markers, ticks, and labels that do not overlap."""

from itertools import pairwise
from types import SimpleNamespace
from xml.dom.minidom import parseString

import pytest

from r2t2_jax.reporting.figures.cost import LABEL, cost_axis, cost_figure, draw_scatter, spread

POINTS = {"base": (1.0, 50.0), "ngd": (102.0, 88.0), "atlas": (2.0, 96.0)}


@pytest.mark.parametrize("narrow", [False, True])
def test_a_strategy_without_cost_is_left_of_all_others_at_a_tick_labeled_zero(narrow: bool) -> None:
    drawing = draw_scatter(POINTS | {"neighbor_vote": (0.0, 30.0)}, narrow, "evaluations")
    svg = parseString(drawing.svg()).documentElement
    marks = svg.getElementsByTagName("use")[-4:]  # after those of the legend
    base, ngd, atlas, vote = ((float(mark.getAttribute("x")), float(mark.getAttribute("y"))) for mark in marks)
    assert vote[0] < base[0] < atlas[0] < ngd[0]
    assert atlas[1] < ngd[1] < base[1] < vote[1]  # downward
    texts = {text.firstChild.data: text for text in svg.getElementsByTagName("text")}
    assert float(texts["0"].getAttribute("x")) == vote[0] and float(texts["1"].getAttribute("x")) == base[0]
    heights = sorted(float(texts[name].getAttribute("y")) for name in (*POINTS, "neighbor_vote"))
    assert min(after - before for before, after in pairwise(heights)) >= LABEL - 0.1


def test_without_such_a_strategy_the_axis_has_no_zero() -> None:
    assert "0" not in cost_axis([1.0, 102.0], "evaluations").ticks.values()
    axis = cost_axis([0.0, 1.0, 102.0], "evaluations")
    assert axis.ticks[0.5] == "0" and axis.low < 0.5


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
