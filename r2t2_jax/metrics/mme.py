"""MME (BradyFU, eval_tool/calculation.py): yes or no; `sets.mme` computes accuracy, accuracy+ and totals.

A parser returns `yes`, `no` or `other`; `other` is wrong for both questions about an image.
"""

from __future__ import annotations

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.vqa import punctuation_vlmevalkit

_PREFIX = 4  # characters


def mme(prediction: str, sample: Sample) -> float:
    """1.0 if the authors' parser `read_yes_no` returns the answer, else 0.0."""
    return _score(read_yes_no(prediction), sample)


def mme_lmms_eval(prediction: str, sample: Sample) -> float:
    """As `mme`, with the parser of lmms-eval."""
    return _score(read_yes_no_lmms_eval(prediction), sample)


def mme_mova(prediction: str, sample: Sample) -> float:
    """As `mme`, with the parser of MoVA."""
    return _score(read_yes_no_mova(prediction), sample)


def mme_vlmevalkit(prediction: str, sample: Sample) -> float:
    """As `mme`, with the parser of VLMEvalKit."""
    return _score(read_yes_no_vlmevalkit(prediction).lower(), sample)


def read_yes_no(text: str) -> str:
    """`yes` or `no` within the first four characters: `not sure` is no, `The answer is yes` is other."""
    start = text.lower()[:_PREFIX]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def read_yes_no_lmms_eval(text: str) -> str:
    """As `read_yes_no` after removing surrounding spaces and full stops; `y` and `n` are also accepted."""
    text = text.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(text) or read_yes_no(text)


def read_yes_no_mova(text: str) -> str:
    """`yes` if `read_yes_no` returns `yes`, otherwise `no`."""
    return "yes" if read_yes_no(text) == "yes" else "no"


def read_yes_no_vlmevalkit(text: str) -> str:
    """`Yes` or `No` if exactly one of the two words occurs, otherwise `Unknown`."""
    words = punctuation_vlmevalkit(text.lower()).split()
    if ("yes" in words) == ("no" in words):
        return "Unknown"
    return "Yes" if "yes" in words else "No"


def _score(reading: str, sample: Sample) -> float:
    return float(reading == sample.answers[0].strip().lower())
