"""One answered question: text, cards and page show the same."""

import dataclasses

import numpy as np

from r2t2_jax.evaluation.records import Neighbor
from r2t2_jax.inference import Prediction
from r2t2_jax.reporting.answer_report import NotebookView, as_page, as_text
from tests.reporting.example_run import HOSTILE
from tests.reporting.page_reader import read

WEIGHTS = np.array([[0.125, 0.875], [0.5, 0.5]], np.float32)
PREDICTION = Prediction(
    model="toy",
    strategy="ngd",
    preset="paper",
    question=HOSTILE,
    image=np.zeros((4, 5, 3), np.uint8),
    before="[red]",
    after="",
    neighbors=(Neighbor("r1", "Which [one]?", "<this>", 0.75), Neighbor("r2", None, None, 0.25)),
    experts=("left", "right"),
    layers=("layer 1", "layer 2"),
    router_weights=WEIGHTS,
    weights=WEIGHTS[:, ::-1],
    path=WEIGHTS[None],
    losses=np.array([0.5], np.float32),
    used_fallback=True,
    evaluations=102,
    seconds={"question": 0.0123, "ngd": 2.5},
)


def test_the_text_fits_80_columns_and_is_complete() -> None:
    text = as_text(PREDICTION)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for part in (
        "router [red] ngd (no answer)",  # not read as markup
        "Which [one]? <this> 75.0 r2 - 25.0",
        "left 12.5 87.5 50.0 50.0 right 87.5 12.5 50.0 50.0",
        "the router's own weights were used",
        "Preset paper. 102 evaluations. Time: question 12.3 ms, ngd 2.50 s",
    ):
        assert part in words


def test_card_and_page_escape_the_question() -> None:
    for html in (NotebookView([PREDICTION])._repr_html_(), as_page(PREDICTION)):
        document = read(html)
        assert document.classed("question")[0].text == HOSTILE
        assert not document.named("script")
        assert document.classed("neighbors")[0].named("td")[1].text == "<this>"
        assert [cell.text for cell in document.classed("routing")[0].named("tbody")[0].named("td")] == [
            *("12.5", "87.5", "50.0", "50.0"),
            *("87.5", "12.5", "50.0", "50.0"),
        ]
        assert not document.classed("outcome")  # the right answer is not known


def test_a_notebook_shows_a_card_for_each_prediction() -> None:
    view = NotebookView([PREDICTION, dataclasses.replace(PREDICTION, question="And now?")])
    document = read(view._repr_html_())
    assert [element.text for element in document.classed("question")] == [HOSTILE, "And now?"]
    assert len(document.named("style")) == 1
