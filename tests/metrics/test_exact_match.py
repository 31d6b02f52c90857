"""Exact match: accepted and rejected differences from the answer."""

import numpy as np
import pytest

from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics import get_metric
from r2t2_jax.metrics.exact_match import exact_match

SAMPLE = Sample(id="1", image=np.zeros((1, 1, 3), np.uint8), question="?", answers=("Dark red", "1.5"))


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("dark red", 1.0),
        ("  DARK   red.\n", 1.0),
        ("1.5", 1.0),
        ("15", 0.0),
        ("red", 0.0),
        ("dark red one", 0.0),
        ("", 0.0),
    ],
)
def test_exact_match_ignores_case_spaces_and_final_punctuation(prediction: str, score: float) -> None:
    assert exact_match(prediction, SAMPLE) == score


def test_an_unknown_metric_lists_the_known_ones() -> None:
    assert get_metric("exact_match") is exact_match
    with pytest.raises(R2T2Error, match="unknown metric 'bleu'; choose one of exact_match"):
        get_metric("bleu")
