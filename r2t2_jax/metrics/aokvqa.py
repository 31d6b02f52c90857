"""A-OKVQA (allenai/aokvqa, eval_predictions.py): multiple choice and direct answers, both on raw texts."""

from __future__ import annotations

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.options import chosen_option, right_option


def aokvqa(prediction: str, sample: Sample) -> float:
    """Multiple choice as the authors score it: the prediction is the very text of the right choice."""
    return float(prediction == right_option(sample))


def aokvqa_letter(prediction: str, sample: Sample) -> float:
    """The same for a model that was asked for a letter: the letter is turned into its choice first."""
    return aokvqa(chosen_option(prediction, sample), sample)


def aokvqa_direct(prediction: str, sample: Sample) -> float:
    """Direct answers: min(1, equal answers / 3) of ten, without normalising and without leaving one out."""
    return min(1.0, sum(prediction == answer for answer in sample.answers) / 3)
