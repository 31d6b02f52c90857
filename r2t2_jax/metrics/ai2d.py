"""AI2D has no official scorer; `letter_match`, MoVA's, is our default. These are the other readings in use."""

from __future__ import annotations

import re

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.cambrian import first_letter
from r2t2_jax.metrics.exact_match_lmms_eval import folded

_OPENING_LETTER = re.compile(r"^\s*([A-Z])\.")
_CAPITAL = re.compile(r"[A-Z]")


def ai2d_moai(prediction: str, sample: Sample) -> float:
    """MoAI: the first capital anywhere, so `The answer is B` is read as T. No capital at all is wrong."""
    capital = _CAPITAL.search(prediction)
    return float(capital is not None and capital.group() == sample.answers[0])


def ai2d_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval: a capital and full stop at the start, or else the whole text without case and punctuation."""
    opening = _OPENING_LETTER.match(prediction)
    return float(folded(opening.group(1) if opening else prediction) == folded(sample.answers[0]))


def ai2d_cambrian(prediction: str, sample: Sample) -> float:
    """Cambrian: the first character of what follows `answer is`; an option's number, from 0, counts too."""
    letter = first_letter(prediction)
    return float(letter in (sample.answers[0].lower(), str(ord(sample.answers[0]) - ord("A"))))
