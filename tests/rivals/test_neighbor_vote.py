"""The vote of the neighbors, by hand."""

import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.rivals.neighbor_vote import vote


def records(*answers):
    return [{"answer": answer} for answer in answers]


@pytest.mark.parametrize(
    ("answers", "weights", "expected"),
    [
        (("red", "blue", "blue"), (0.5, 0.3, 0.3), "blue"),  # a light majority outweighs the nearest
        (("red", "blue", "blue"), (0.7, 0.3, 0.3), "red"),
        (("red", "blue"), (0.5, 0.5), "red"),  # the nearest of equals
        (("red", "blue"), (0.0, 0.0), "red"),
    ],
)
def test_the_answer_of_largest_weight_is_chosen(answers, weights, expected):
    assert vote(records(*answers), np.array(weights)) == expected


def test_a_bank_without_answers_as_text_is_refused():
    with pytest.raises(R2T2Error, match="needs the answers of the references as text"):
        vote([{}], np.ones(1))
