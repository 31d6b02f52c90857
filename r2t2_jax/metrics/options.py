"""Letters and options: what a multiple-choice sample offers, and which of it was meant.

A sample of style `letter` has the letter as its answer and the texts as its options.
"""

from __future__ import annotations

from string import ascii_uppercase

from r2t2_jax.contract import Sample


def letter_match(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction is the answer's letter, case and spaces around it aside (MoVA, eval_ai2d.py; TQA)."""
    return float(prediction.strip().lower() == sample.answers[0].lower())


def right_option(sample: Sample) -> str:
    """The text of the right option."""
    return sample.options[ascii_uppercase.index(sample.answers[0])]


def chosen_option(prediction: str, sample: Sample) -> str:
    """The option a lone letter stands for (`B`, `b.`, `(B)`); any other prediction as it is."""
    letter = prediction.strip().strip("().:").upper()
    if len(letter) == 1 and letter in ascii_uppercase[: len(sample.options)]:
        return sample.options[ascii_uppercase.index(letter)]
    return prediction
