"""Visual7W telling (yukezhu/visual7w-toolkit, evaluate.py): the chosen candidate in lower case is the answer."""

from __future__ import annotations

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.options import chosen_option, right_option


def visual7w(prediction: str, sample: Sample) -> float:
    """As the authors score it: the prediction is the candidate's text."""
    return float(prediction.lower() == right_option(sample).lower())


def visual7w_letter(prediction: str, sample: Sample) -> float:
    """The same for a model that was asked for a letter: the letter is turned into its candidate first."""
    return visual7w(chosen_option(prediction, sample), sample)
