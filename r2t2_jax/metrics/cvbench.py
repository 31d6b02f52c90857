"""CV-Bench (Cambrian): the letter of one answer. `sets.cvbench` makes the 2D, 3D and overall scores of it."""

from __future__ import annotations

import re

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.cambrian import first_letter
from r2t2_jax.metrics.options import right_option

_LETTER = re.compile(r"[(\s]*([A-Z])", re.IGNORECASE)


def cvbench2d(prediction: str, sample: Sample) -> float:
    """Cambrian's ade_test.py and coco_test.py: the first character of the answer is the letter."""
    return float(first_letter(prediction) == sample.answers[0].lower())


def cvbench3d(prediction: str, sample: Sample) -> float:
    """Cambrian's omni_test.py: the same, or the first character is the right option's whole text."""
    return float(first_letter(prediction) in (sample.answers[0].lower(), right_option(sample)))


def cvbench_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval's reading."""
    return float(read_letter(prediction) == sample.answers[0])


def read_letter(text: str) -> str:
    """The first letter of the text, whatever word it begins: `The answer is B` gives T; empty where none leads."""
    letter = _LETTER.match(text.strip())
    return letter.group(1).upper() if letter else ""
