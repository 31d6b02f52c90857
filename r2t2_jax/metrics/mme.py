"""MME (BradyFU, eval_tool/calculation.py): yes or no. `sets.mme` adds answers up to accuracy, accuracy+ and totals.

A reading gives `yes`, `no` or `other`, which is wrong for both questions about an image.
"""

from __future__ import annotations

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.vqa import punctuation_vlmevalkit

_PREFIX = 4


def mme(prediction: str, sample: Sample) -> float:
    """The authors' reading."""
    return _same(read_yes_no(prediction), sample)


def mme_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval's reading."""
    return _same(read_yes_no_lmms_eval(prediction), sample)


def mme_mova(prediction: str, sample: Sample) -> float:
    """MoVA's reading."""
    return _same(read_yes_no_mova(prediction), sample)


def mme_vlmevalkit(prediction: str, sample: Sample) -> float:
    """VLMEvalKit's reading."""
    return _same(read_yes_no_vlmevalkit(prediction).lower(), sample)


def read_yes_no(text: str) -> str:
    """`yes` or `no` within the first four characters: `not sure` is no, `The answer is yes` is other."""
    start = text.lower()[:_PREFIX]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def read_yes_no_lmms_eval(text: str) -> str:
    """The same on a text without spaces around it and full stops; a lone `y` or `n` counts."""
    text = text.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(text) or read_yes_no(text)


def read_yes_no_mova(text: str) -> str:
    """Whatever does not say yes at once is no."""
    return "yes" if read_yes_no(text) == "yes" else "no"


def read_yes_no_vlmevalkit(text: str) -> str:
    """`Yes` or `No` where one of the two words occurs and the other does not; `Unknown` otherwise."""
    words = punctuation_vlmevalkit(text.lower()).split()
    if ("yes" in words) == ("no" in words):
        return "Unknown"
    return "Yes" if "yes" in words else "No"


def _same(reading: str, sample: Sample) -> float:
    return float(reading == sample.answers[0].strip().lower())
